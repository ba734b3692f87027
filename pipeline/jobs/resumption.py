"""Resumption: what is still to be done of tasks and jobs after a crash, a replay or a redrive."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Literal

from pipeline.errors import ServiceError
from pipeline.jobs.counter import Counter, Node, leaf_of, top_of, width
from pipeline.jobs.errors import NoRecordError, TaskOverError
from pipeline.jobs.expressions import Item
from pipeline.jobs.jobrecords import JobRecords, ends_of, parts_register, register_of
from pipeline.jobs.keys import FAN_OUT, Key, Keys
from pipeline.jobs.model import Closing, DoneTasks, Job, JobState
from pipeline.jobs.refs import PartRef, Ref, SplitRef, StageRef
from pipeline.jobs.table import Table
from pipeline.jobs.taskrecords import REDRIVEN, TaskRecords, collect, failure_entry

#: The attributes of a job's items that tell how far a stage is, without the parts inside a seal.
_SMALL = ("sk", "n", "split", "ends_path")

#: How a redrive finds a task. "too late": its job's end is final, or its gather went on without it.
_Found = Literal["running", "done", "too late"]


class Resumption:
    """Reads what is recorded of tasks and jobs, and derives what is left to do."""

    def __init__(
        self, table: Table, keys: Keys, records: JobRecords, counter: Counter, outcomes: TaskRecords
    ) -> None:
        self._table = table
        self._keys = keys
        self._records = records
        self._counter = counter
        self._outcomes = outcomes

    # ─── Tasks that come again ───

    def already_done(self, refs: Iterable[Ref]) -> DoneTasks:
        """Return which of these tasks need no run, with what a crash after their recording left open.

        Close the closings like those of ``TaskRecords.record`` before the tasks' messages are deleted.
        """
        wanted = list(dict.fromkeys(refs))
        items = self._read(wanted)
        done = {ref for ref in wanted if self._is_done(ref, items)}
        finished = {ref: at for ref in done if (at := self._finished_at(ref, items)) is not None}
        return DoneTasks(refs=frozenset(done), closings=self._left_open(done, items), finished_at=finished)

    def _read(self, refs: Collection[Ref]) -> Mapping[Key, Item]:
        """Return the items that say whether tasks are done; of a stage that may be its job's record."""
        jobs = [self._keys.meta(ref.job_id) for ref in refs if isinstance(ref, StageRef)]
        return self._table.get_many([*map(self._done_key, refs), *jobs])

    def _is_done(self, ref: Ref, items: Mapping[Key, Item]) -> bool:
        return any(_is_done(ref, record) for record in self._records_of(ref, items))

    def _finished_at(self, ref: Ref, items: Mapping[Key, Item]) -> float | None:
        done = [record for record in self._records_of(ref, items) if _is_done(ref, record)]
        return done[0].get("finished_at")

    def _records_of(self, ref: Ref, items: Mapping[Key, Item]) -> Sequence[Item]:
        """Return what may say that a task is done: its own item, or of a last stage its job's record."""
        item = items.get(self._done_key(ref), {})
        if not isinstance(ref, StageRef):
            return (item,)
        return item, ends_of(items.get(self._keys.meta(ref.job_id), {})).get(ref.stage, {})

    def _done_key(self, ref: Ref) -> Key:
        match ref:
            case StageRef():
                return self._keys.stage(ref.job_id, ref.stage)
            case SplitRef():
                return self._keys.top(ref.split_id)
            case PartRef():
                return leaf_of(ref).key(self._keys)

    def _left_open(self, done: set[Ref], items: Mapping[Key, Item]) -> Sequence[Closing]:
        """Climb on from what is recorded; raise the first error, so that the check is made again.

        A task of a job without a record is done, and there is nothing to close.
        """
        errors: dict[int, ServiceError] = {}
        stages = [ref for ref in done if isinstance(ref, StageRef)]
        answers = self._table.each(
            lambda ref: self._resume_stage(ref, items.get(self._done_key(ref), {})), stages
        )
        closings = collect((((origin,), answer) for origin, answer in enumerate(answers)), errors)
        leaves = dict.fromkeys(leaf_of(ref) for ref in done if isinstance(ref, PartRef))
        origins = {leaf: frozenset({origin}) for origin, leaf in enumerate(leaves, start=len(stages))}
        closings += self._outcomes.after_climb(self._counter.resume(origins, items), errors)
        for error in errors.values():
            if not isinstance(error, NoRecordError):
                raise error
        return closings

    def _resume_stage(self, ref: StageRef, item: Item) -> list[Closing]:
        if item.get("ends_path"):
            return self._records.end_paths(ref.job_id, {ref.stage})
        return self._records.recheck(ref.job_id)

    # ─── Jobs that stopped moving ───

    def resume(self, job_id: str) -> Sequence[Closing]:
        """Return what of a job ended and was not closed, because the process that recorded it died.

        Nothing for a job whose end is final, or that is not there. Reads every leaf of the job's splits that
        are not gathered: for jobs that stopped moving.
        """
        job = self._records.get(job_id)
        if job is None or job.is_final:
            return []
        # In this order of sk: P#stage (seals), S#stage (done).
        items = self._table.query(self._keys.job(job_id), since="P#", until="S$", attributes=_SMALL)
        by_key = {item["sk"]: item for item in items}
        closings = self._resume_splits(job, by_key)
        unrecorded = {
            stage
            for stage in job.plan.stages
            if by_key.get(f"S#{stage}", {}).get("ends_path") and not job.plan.below([stage]) <= job.done
        }
        if unrecorded:
            return [*closings, *self._records.end_paths(job_id, unrecorded)]
        return [*closings, *self._records.recheck(job_id)]

    def _resume_splits(self, job: Job, by_key: dict[str, Item]) -> list[Closing]:
        closings: list[Closing] = []
        for key, seal in by_key.items():
            stage = key.removeprefix("P#").partition("#")[0]
            is_gathered = f"S#{stage}" in by_key or stage in job.ends
            # Of a stage's first split the gather's record tells more cheaply that it is closed.
            if key.startswith("P#") and not (key == f"P#{stage}" and is_gathered):
                split = SplitRef(job_id=job.job_id, stage=stage, split_id=seal["split"])
                closings += self._resume_split(split, seal["n"])
        return closings

    def _resume_split(self, split: SplitRef, total: int) -> list[Closing]:
        top = top_of(split, total)
        if self._counter.states([top])[top].closed:
            return []
        leaves = [Node(split=split, total=total, level=0, index=index) for index in range(width(total, 0))]
        keys: dict[Node, Key] = {leaf: leaf.key(self._keys) for leaf in leaves}
        found = self._table.get_many(keys.values())
        errors: dict[int, ServiceError] = {}
        climb = self._counter.resume({leaf: frozenset({0}) for leaf in leaves if keys[leaf] in found}, found)
        closings = self._outcomes.after_climb(climb, errors)
        for error in errors.values():
            raise error
        return closings

    # ─── Dead letters that are redriven ───

    def redrive(self, refs: Sequence[tuple[Ref, int]]) -> list[ServiceError | None]:
        """Set dead letters (with the generation they failed in) to running again, before they are sent.

        Return an answer for each: None when it is to be sent, with the next generation; ``TaskOverError`` if
        the task is done after all, or its job complete or cancelled: then the dead letter is only removed.
        Repeating it goes on where a crash stopped it.
        """
        answers = self._table.each(self._redrive, refs)
        self._hide_failures(
            {ref: answer for (ref, _), answer in zip(refs, answers, strict=True) if isinstance(answer, str)}
        )
        return [
            answer if isinstance(answer, ServiceError) else _over(ref, answer)
            for (ref, _), answer in zip(refs, answers, strict=True)
        ]

    def _hide_failures(self, found: Mapping[Ref, _Found]) -> None:
        """Hide why tasks failed that run again, and forget it of those that are done.

        It is only shown to people: a reason that stays is no error. What is hidden keeps its digest, which
        proves the error event to a redrive that goes on where this one stopped.
        """
        keys = {ref: self._keys.failure(ref) for ref in found}
        items: dict[Key, Item | None] = {keys[ref]: None for ref, answer in found.items() if answer == "done"}
        running = [keys[ref] for ref, answer in found.items() if answer == "running"]
        try:
            recorded = self._table.get_many(running)
        except ServiceError:
            recorded = {}
        self._table.put_many(items | {key: {**item, REDRIVEN: True} for key, item in recorded.items()})

    def is_over(self, ref: Ref) -> bool:
        """Whether a task is done, or its job's end is final, so that there is nothing to redrive."""
        job = self._records.get(ref.job_id)
        return (job is not None and job.is_final) or self._is_done(ref, self._read([ref]))

    def _redrive(self, entry: tuple[Ref, int]) -> _Found:
        ref, generation = entry
        if self._is_done(ref, self._read([ref])):
            return "done"
        if not isinstance(ref, PartRef):
            name, phase = register_of(ref), 2 * generation + 2
        else:
            job = self._records.get(ref.job_id)
            top = top_of(ref.split, ref.total)
            # Closed: the gather went on without it.
            if (job is not None and job.is_final) or self._counter.states([top])[top].closed:
                return "too late"
            root = self._counter.redrive(leaf_of(ref), [failure_entry(ref, generation)])
            name, phase = parts_register(ref.stage), 2 * root
        if self._records.redrive(ref.job_id, name, phase):
            return "running"
        return "running" if self._is_beside(ref) else "too late"

    def _is_beside(self, ref: Ref) -> bool:
        """Whether a task that is not done belongs to an event beside those that completed its job."""
        job = self._records.get(ref.job_id)
        done = job is not None and job.state is JobState.COMPLETE
        return done and isinstance(ref, StageRef) and ref.task_id != ""


def _is_done(ref: Ref, item: Item) -> bool:
    match ref:
        case StageRef():
            # A job may have several events of one stage: what one of them did is not done of the others.
            return bool(item) and ref.task_id in ("", item.get("task_id"))
        case SplitRef():
            return "closed_at" in item
        case PartRef():
            return ref.ordinal % FAN_OUT in item.get("d", ())


def _over(ref: Ref, found: _Found) -> TaskOverError | None:
    return None if found == "running" else TaskOverError(ref.job_id, ref.stage, found)
