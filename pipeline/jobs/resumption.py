"""Resumption: finds what of a job ended without being closed, by climbing again from what is recorded."""

from collections.abc import Callable, Sequence

from pipeline.errors import ServiceError
from pipeline.jobs.counter import Climb, Counter, Node, top_of, width
from pipeline.jobs.keys import Key, Keys
from pipeline.jobs.model import Closing, Job, SplitRef
from pipeline.jobs.records import Records
from pipeline.jobs.table import Table
from pipeline.jobs.wire import Item

#: What tells how far a stage is: not the parts inside a seal.
_SMALL = ("sk", "n", "split", "ends_path")


class Resumption:
    """Reads one job as a whole."""

    def __init__(
        self,
        table: Table,
        keys: Keys,
        records: Records,
        counter: Counter,
        after_climb: Callable[[Climb, dict[int, ServiceError]], list[Closing]],
    ) -> None:
        """``after_climb`` says what the splits that ended need."""
        self._table = table
        self._keys = keys
        self._records = records
        self._counter = counter
        self._after_climb = after_climb

    def resume(self, job_id: str) -> Sequence[Closing]:
        """What is to be closed now; nothing for a job whose end is final, or that is not there."""
        job = self._records.get(job_id)
        if job is None or job.is_final:
            return []
        # In this order of sk: P#stage (seals), S#stage (done).
        items = self._table.query(self._keys.job(job_id), since="P#", until="S$", attributes=_SMALL)
        by_key = {item["sk"]: item for item in items}
        closings = self._resume_splits(job, by_key)
        unheard = {
            stage
            for stage in job.plan.stages
            if by_key.get(f"S#{stage}", {}).get("ends_path") and not job.plan.below([stage]) <= job.done
        }
        if unheard:
            return [*closings, *self._records.end_paths(job_id, unheard)]
        return [*closings, *self._records.recheck(job_id)]

    def _resume_splits(self, job: Job, by_key: dict[str, Item]) -> list[Closing]:
        closings: list[Closing] = []
        for stage in job.plan.stages:
            seal = by_key.get(f"P#{stage}")
            if seal is not None and f"S#{stage}" not in by_key:
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
        closings = self._after_climb(climb, errors)
        for error in errors.values():
            raise error
        return closings
