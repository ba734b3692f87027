"""The records of tasks: tasks recorded as done or failed, in batches.

A batch is answered outcome by outcome, so that only what failed of it is recorded again.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

from pipeline.errors import ServiceError
from pipeline.jobs.counter import Climb, Counter, EndedSplit, Marks, Node, leaf_of
from pipeline.jobs.expressions import Item
from pipeline.jobs.jobrecords import JobRecords, kept_result, parts_register, register_of
from pipeline.jobs.keys import FAN_OUT, Key, Keys
from pipeline.jobs.model import (
    Closing,
    Done,
    FailedTask,
    PartDone,
    Recorded,
    SplitFilled,
    StageDone,
)
from pipeline.jobs.refs import PartRef, Ref
from pipeline.jobs.splits import Splits, run_item, tolerated_parts
from pipeline.jobs.table import Table

#: Characters kept of a failure's message: the item stays within one write unit; the errors topic has it all.
MESSAGE_CHARACTERS = 500

#: The attribute of a failure whose task was redriven since: it is not shown any more.
REDRIVEN = "redriven"

#: The most parts that a gather goes on without: their ordinals are in one item of 400 KB with the counter.
MISSING_MOST = 20_000


class TaskRecords:
    """The outcomes of all tasks."""

    def __init__(
        self,
        table: Table,
        keys: Keys,
        records: JobRecords,
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

    def record(self, done: Sequence[Done]) -> Recorded:
        """Record tasks that are done, coalesced: one write a leaf, up to 25 stages a request.

        A task with an error is to be recorded again; the others are not affected by it.
        """
        errors: dict[int, ServiceError] = {}
        closings = self._record_stages(done, errors)
        leaves: defaultdict[Node, Marks] = defaultdict(Marks)
        for index, outcome in enumerate(done):
            if isinstance(outcome, PartDone):
                marks = leaves[leaf_of(outcome.ref)]
                offset = outcome.ref.ordinal % FAN_OUT
                if outcome.result is None:
                    marks.done.add(offset)
                else:
                    marks.results.setdefault(offset, run_item(outcome.result))
                marks.origins.add(index)
        closings += self.after_climb(self._counter.record(leaves), errors)
        return Recorded(errors=[errors.get(index) for index in range(len(done))], closings=closings)

    def fail(self, failed: Sequence[FailedTask]) -> Recorded:
        """Record dead letters: first why they failed, then that they failed. Errors as for ``record``."""
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
                marks.failed.add(failure_entry(ref, failure.generation))
                marks.origins.add(index)
            else:
                name, phase = register_of(ref), 2 * failure.generation + 1
                jobs[ref.job_id][name] = max(phase, jobs[ref.job_id].get(name, 0))
                origins[ref.job_id].add(index)
        closings = self._fail_jobs(jobs, origins, errors)
        closings += self.after_climb(self._counter.record(leaves), errors)
        return Recorded(errors=[errors.get(index) for index in range(len(failed))], closings=closings)

    def digests(self, refs: Iterable[Ref]) -> dict[Ref, tuple[str, int]]:
        """Return the digest and generation of the last failure of each task that has one."""
        keys = {ref: self._keys.failure(ref) for ref in refs}
        items = self._table.get_many(keys.values())
        found = {ref: items[key] for ref, key in keys.items() if key in items}
        # An earlier version recorded no digest.
        return {ref: (item.get("digest", ""), item["generation"]) for ref, item in found.items()}

    def _record_stages(self, done: Sequence[Done], errors: dict[int, ServiceError]) -> list[Closing]:
        stages = {index: each for index, each in enumerate(done) if isinstance(each, StageDone)}
        ends = {index: each for index, each in stages.items() if each.ends_path}
        closings, recorded = self._record_ends(ends, errors)
        beside = {index: each for index, each in stages.items() if index not in recorded}
        return closings + self._record_beside(beside, errors)

    def _record_ends(
        self, stages: Mapping[int, StageDone], errors: dict[int, ServiceError]
    ) -> tuple[list[Closing], set[int]]:
        """Record stages in their jobs' records, in one write a job; return which those are.

        The others are of jobs that an earlier version opened.
        """
        jobs: defaultdict[str, dict[str, Item]] = defaultdict(dict)
        origins: defaultdict[str, set[int]] = defaultdict(set)
        for index, each in stages.items():
            jobs[each.ref.job_id][each.ref.stage] = {**_stage_item(each), **kept_result(each.result)}
            origins[each.ref.job_id].add(index)
        answers = self._table.each(lambda entry: self._records.record_ends(*entry), list(jobs.items()))
        answered = [
            (origins[job_id], answer)
            for job_id, answer in zip(jobs, answers, strict=True)
            if answer is not None
        ]
        return collect(answered, errors), {index for indexes, _ in answered for index in indexes}

    def _record_beside(
        self, stages: Mapping[int, StageDone], errors: dict[int, ServiceError]
    ) -> list[Closing]:
        """Record stages as items of their own, then the ends of paths in their jobs' records."""
        keys = {index: self._keys.stage(each.ref.job_id, each.ref.stage) for index, each in stages.items()}
        items = {
            keys[index]: {**_stage_item(each), "ends_path": each.ends_path, "exp": self._expiry()}
            for index, each in stages.items()
        }
        failed = self._table.put_many(items)
        errors |= {index: failed[key] for index, key in keys.items() if key in failed}
        jobs: defaultdict[str, set[str]] = defaultdict(set)
        origins: defaultdict[str, set[int]] = defaultdict(set)
        for index, each in stages.items():
            if each.ends_path and index not in errors:
                jobs[each.ref.job_id].add(each.ref.stage)
                origins[each.ref.job_id].add(index)
        answers = self._table.each(lambda entry: self._records.end_paths(*entry), list(jobs.items()))
        return collect(zip((origins[job_id] for job_id in jobs), answers, strict=True), errors)

    def _record_reasons(self, failed: Sequence[FailedTask], errors: dict[int, ServiceError]) -> None:
        keys = [self._keys.failure(failure.ref) for failure in failed]
        items: dict[Key, Item | None] = {
            key: {
                "task_id": failure.task_id,
                "error": failure.error,
                "message": failure.message[:MESSAGE_CHARACTERS],
                "attempts": failure.attempts,
                "failed_at": failure.failed_at,
                "generation": failure.generation,
                "digest": failure.digest,
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
        return collect(zip((origins[job_id] for job_id in jobs), answers, strict=True), errors)

    def after_climb(self, climb: Climb, errors: dict[int, ServiceError]) -> list[Closing]:
        """Return the gathers that ended splits need; record the splits that failed in their jobs."""
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

    def _goes_on(self, ended: EndedSplit) -> bool:
        """Whether the gather may run without the parts that failed."""
        total = ended.node.total
        most = min(tolerated_parts(self._splits.tolerance(ended.node.split), total), MISSING_MOST)
        return most > 0 and self._counter.go_on_without(ended.node, most) is not None


def _stage_item(done: StageDone) -> Item:
    return {
        "task_id": done.task_id,
        "run_seconds": round(done.run_seconds, 6),
        "finished_at": round(done.finished_at, 3),
        "worker": done.worker,
        **({"entity": done.entity} if done.entity else {}),
    }


def failure_entry(ref: PartRef, generation: int) -> str:
    """Return the entry of a failed or redriven part in its leaf's sets."""
    return f"{ref.ordinal % FAN_OUT}.{generation}"


def collect(
    answers: Iterable[tuple[Iterable[int], list[Closing] | ServiceError]], errors: dict[int, ServiceError]
) -> list[Closing]:
    """Return the closings of several answers; add each error under the outcomes that it concerns."""
    closings: list[Closing] = []
    for origins, answer in answers:
        if isinstance(answer, ServiceError):
            errors |= dict.fromkeys(origins, answer)
        else:
            closings += answer
    return closings
