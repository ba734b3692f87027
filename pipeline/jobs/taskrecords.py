"""Outcomes: what becomes of tasks, recorded in batches; each answers with what it ended.

Whatever fails of a batch is told outcome by outcome, so that only that is recorded again.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal

from pipeline.errors import ServiceError
from pipeline.jobs.counter import Climb, Counter, Ended, Marks, Node, leaf_of, top_of
from pipeline.jobs.errors import NoRecordError
from pipeline.jobs.keys import FAN_OUT, Key, Keys
from pipeline.jobs.model import (
    AlreadyDone,
    Closing,
    Done,
    Failed,
    PartDone,
    PartRef,
    Recorded,
    Ref,
    SplitFilled,
    SplitRef,
    StageDone,
    StageRef,
)
from pipeline.jobs.records import Records, parts_register, register_of
from pipeline.jobs.splits import Splits
from pipeline.jobs.table import Table
from pipeline.jobs.wire import Item

#: Characters kept of a failure's message: the item stays within one write unit; the errors topic has it all.
MESSAGE_CHARACTERS = 500

#: The most parts that a gather goes on without: their ordinals are in one item of 400 KB with the counter.
MISSING_MOST = 20_000

#: What a redrive finds of a task. "too late": its job's end is final, or its gather went on without it.
Redriven = Literal["running", "done", "too late"]


class Outcomes:
    """The outcomes of all tasks. ``JobStore`` says what each method promises."""

    def __init__(
        self,
        table: Table,
        keys: Keys,
        records: Records,
        counter: Counter,
        splits: Splits,
        expiry: Callable[[], int],
    ) -> None:
        """``expiry`` gives the ``exp`` of an item written now."""
        self._table = table
        self._keys = keys
        self._records = records
        self._counter = counter
        self._splits = splits
        self._expiry = expiry

    def already_done(self, refs: Iterable[Ref]) -> AlreadyDone:
        """What needs no run, and what a crash left open."""
        keys = {ref: self._done_key(ref) for ref in refs}
        items = self._table.get_many(keys.values())
        done = {ref for ref, key in keys.items() if _is_done(ref, items.get(key, {}))}
        return AlreadyDone(refs=frozenset(done), closings=self._resume(done, keys, items))

    def record(self, done: Sequence[Done]) -> Recorded:
        """What ended well."""
        errors: dict[int, ServiceError] = {}
        closings = self._record_stages(done, errors)
        leaves: defaultdict[Node, Marks] = defaultdict(Marks)
        for index, outcome in enumerate(done):
            if isinstance(outcome, PartDone):
                marks = leaves[leaf_of(outcome.ref)]
                marks.done.add(outcome.ref.ordinal % FAN_OUT)
                marks.origins.add(index)
        closings += self.after_climb(self._counter.record(leaves), errors)
        return Recorded(errors=[errors.get(index) for index in range(len(done))], closings=closings)

    def record_failed(self, failed: Sequence[Failed]) -> Recorded:
        """What is a dead letter: why, then that it failed."""
        errors: dict[int, ServiceError] = {}
        self._record_reasons(failed, errors)
        leaves: defaultdict[Node, Marks] = defaultdict(Marks)
        jobs: defaultdict[str, dict[str, int]] = defaultdict(dict)
        origins: defaultdict[str, set[int]] = defaultdict(set)
        for index, failure in enumerate(failed):
            ref = failure.ref
            if index in errors:
                continue
            if isinstance(ref, PartRef):
                marks = leaves[leaf_of(ref)]
                marks.failed.add(_entry(ref, failure.generation))
                marks.origins.add(index)
            else:
                name, phase = register_of(ref), 2 * failure.generation + 1
                jobs[ref.job_id][name] = max(phase, jobs[ref.job_id].get(name, 0))
                origins[ref.job_id].add(index)
        closings = self._fail_jobs(jobs, origins, errors)
        closings += self.after_climb(self._counter.record(leaves), errors)
        return Recorded(errors=[errors.get(index) for index in range(len(failed))], closings=closings)

    def redrive(self, refs: Sequence[tuple[Ref, int]]) -> list[bool | ServiceError]:
        """Which dead letters are to be sent, now that they count as running."""
        answers = self._table.each(self._redrive, refs)
        mended = {
            self._keys.failure(ref): None
            for (ref, _), answer in zip(refs, answers, strict=True)
            if answer in ("running", "done")
        }
        # Only shown to people: a reason that stays is no error.
        self._table.put_many(mended)
        return [answer if isinstance(answer, ServiceError) else answer == "running" for answer in answers]

    def _record_stages(self, done: Sequence[Done], errors: dict[int, ServiceError]) -> list[Closing]:
        stages = {index: each for index, each in enumerate(done) if isinstance(each, StageDone)}
        keys = {index: self._keys.stage(each.ref.job_id, each.ref.stage) for index, each in stages.items()}
        failed = self._table.put_many({keys[index]: self._stage_item(each) for index, each in stages.items()})
        errors |= {index: failed[key] for index, key in keys.items() if key in failed}
        jobs: defaultdict[str, set[str]] = defaultdict(set)
        origins: defaultdict[str, set[int]] = defaultdict(set)
        for index, each in stages.items():
            if each.ends_path and index not in errors:
                jobs[each.ref.job_id].add(each.ref.stage)
                origins[each.ref.job_id].add(index)
        answers = self._table.each(lambda entry: self._records.end_paths(*entry), list(jobs.items()))
        return _collect(zip((origins[job_id] for job_id in jobs), answers, strict=True), errors)

    def _stage_item(self, done: StageDone) -> Item:
        return {
            "task_id": done.task_id,
            "ends_path": done.ends_path,
            "run_seconds": round(done.run_seconds, 6),
            "finished_at": round(done.finished_at, 3),
            "worker": done.worker,
            "exp": self._expiry(),
        }

    def _record_reasons(self, failed: Sequence[Failed], errors: dict[int, ServiceError]) -> None:
        keys = [self._keys.failure(failure.ref) for failure in failed]
        items: dict[Key, Item | None] = {
            key: {
                "task_id": failure.task_id,
                "error": failure.error,
                "message": failure.message[:MESSAGE_CHARACTERS],
                "attempts": failure.attempts,
                "failed_at": failure.failed_at,
                "generation": failure.generation,
                "exp": self._expiry(),
            }
            for key, failure in zip(keys, failed, strict=True)
        }
        unwritten = self._table.put_many(items)
        errors |= {index: unwritten[key] for index, key in enumerate(keys) if key in unwritten}

    def _fail_jobs(
        self,
        jobs: Mapping[str, Mapping[str, int]],
        origins: Mapping[str, set[int]],
        errors: dict[int, ServiceError],
    ) -> list[Closing]:
        answers = self._table.each(lambda entry: self._records.fail(*entry), list(jobs.items()))
        return _collect(zip((origins[job_id] for job_id in jobs), answers, strict=True), errors)

    def after_climb(self, climb: Climb, errors: dict[int, ServiceError]) -> list[Closing]:
        """What the splits that ended need: their gather, or their failure on their job's record."""
        errors |= climb.errors
        closings: list[Closing] = []
        jobs: defaultdict[str, dict[str, int]] = defaultdict(dict)
        origins: defaultdict[str, set[int]] = defaultdict(set)
        for ended in climb.ended:
            split = ended.node.split
            if ended.state.closed:
                continue
            if not ended.state.full and not self._goes_on(ended):
                jobs[split.job_id][parts_register(split.stage)] = ended.state.phase
                origins[split.job_id] |= ended.origins
            else:
                closings.append(SplitFilled(split=split, total=ended.node.total))
        return closings + self._fail_jobs(jobs, origins, errors)

    def _goes_on(self, ended: Ended) -> bool:
        """Whether the gather may run without the parts that failed."""
        total = ended.node.total
        most = min(int(self._splits.tolerance(ended.node.split) * total), MISSING_MOST)
        return most > 0 and self._counter.go_on_without(ended.node, most) is not None

    def _redrive(self, entry: tuple[Ref, int]) -> Redriven:
        ref, generation = entry
        key = self._done_key(ref)
        if _is_done(ref, self._table.get(key) or {}):
            return "done"
        if not isinstance(ref, PartRef):
            name, phase = register_of(ref), 2 * generation + 2
        else:
            job = self._records.get(ref.job_id)
            top = top_of(ref.split, ref.total)
            # Closed: the gather went on without it.
            if (job is not None and job.is_final) or self._counter.states([top])[top].closed:
                return "too late"
            root = self._counter.redrive(leaf_of(ref), [_entry(ref, generation)])
            name, phase = parts_register(ref.stage), 2 * root
        return "running" if self._records.redrive(ref.job_id, name, phase) else "too late"

    def _done_key(self, ref: Ref) -> Key:
        match ref:
            case StageRef():
                return self._keys.stage(ref.job_id, ref.stage)
            case SplitRef():
                return self._keys.top(ref.split_id)
            case PartRef():
                return leaf_of(ref).key(self._keys)

    def _resume(
        self, done: set[Ref], keys: Mapping[Ref, Key], items: Mapping[Key, Item]
    ) -> Sequence[Closing]:
        """Climb on from what is recorded; raise the first error, for the check to be made again.

        What is done stays done where its job has no record: then there is nothing to close.
        """
        errors: dict[int, ServiceError] = {}
        stages = [ref for ref in done if isinstance(ref, StageRef)]
        answers = self._table.each(lambda ref: self._resume_stage(ref, items[keys[ref]]), stages)
        closings = _collect((((origin,), answer) for origin, answer in enumerate(answers)), errors)
        leaves = dict.fromkeys(leaf_of(ref) for ref in done if isinstance(ref, PartRef))
        origins = {leaf: frozenset({origin}) for origin, leaf in enumerate(leaves, start=len(stages))}
        closings += self.after_climb(self._counter.resume(origins, items), errors)
        for error in errors.values():
            if not isinstance(error, NoRecordError):
                raise error
        return closings

    def _resume_stage(self, ref: StageRef, item: Item) -> list[Closing]:
        if item["ends_path"]:
            return self._records.end_paths(ref.job_id, {ref.stage})
        return self._records.recheck(ref.job_id)


def _is_done(ref: Ref, item: Item) -> bool:
    match ref:
        case StageRef():
            return bool(item)
        case SplitRef():
            return "closed_at" in item
        case PartRef():
            return ref.ordinal % FAN_OUT in item.get("d", ())


def _entry(ref: PartRef, generation: int) -> str:
    """A failed or redriven part in its leaf's sets."""
    return f"{ref.ordinal % FAN_OUT}.{generation}"


def _collect(
    answers: Iterable[tuple[Iterable[int], list[Closing] | ServiceError]], errors: dict[int, ServiceError]
) -> list[Closing]:
    """The closings of several answers; the errors go to the outcomes they are about."""
    closings: list[Closing] = []
    for origins, answer in answers:
        if isinstance(answer, ServiceError):
            errors |= dict.fromkeys(origins, answer)
        else:
            closings += answer
    return closings
