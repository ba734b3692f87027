"""The list of a split's parts: state, attempts and run time of each, page by page. Reads only, for people."""

from collections.abc import Iterable, Iterator, Mapping

from pipeline.jobs.counter import Counter, leaf_of
from pipeline.jobs.expressions import Item
from pipeline.jobs.keys import FAN_OUT, Keys
from pipeline.jobs.model import JobState, PartPage, PartRow
from pipeline.jobs.refs import PartRef, SplitRef
from pipeline.jobs.splits import KEPT_PARTS
from pipeline.jobs.table import Table

#: Of a part's result: not the result itself, which may be large.
_RUN = ("sk", "run_seconds", "attempts")

#: Of a failure's record.
_FAILURE = ("sk", "error", "message", "attempts", "failed_at")


class PartList:
    """Reads the parts of one split: their leaves, their results' attributes, their failures."""

    def __init__(self, table: Table, keys: Keys, counter: Counter) -> None:
        self._table = table
        self._keys = keys
        self._counter = counter

    def page(self, job_id: str, stage: str, *, after: int | None = None, limit: int = 100) -> PartPage | None:
        """Return a page of the parts of a stage's split, by ordinal; None when it is not split (yet).

        ``after`` is the ``next`` of the page before. Reads what is stored of these parts, results included.
        """
        seal = self._table.get((self._keys.job(job_id), f"P#{stage}"), attributes=("n", "split", "header"))
        meta = self._table.get(self._keys.meta(job_id), attributes=("state",))
        if not seal or not meta or "n" not in seal:
            return None
        split = SplitRef(job_id=job_id, stage=stage, split_id=seal["split"])
        first = 0 if after is None else after + 1
        ordinals = range(first, min(seal["n"], first + limit))
        parts = [
            PartRef(job_id=job_id, stage=stage, split_id=split.split_id, ordinal=each, total=seal["n"])
            for each in ordinals
        ]
        ended = JobState(meta["state"]) is JobState.CANCELLED
        return PartPage(
            split=split,
            total=seal["n"],
            parts=self._rows(parts, cancelled=ended) if parts else (),
            next=ordinals[-1] if parts and ordinals[-1] + 1 < seal["n"] else None,
            header=seal["header"],
        )

    def _rows(self, parts: list[PartRef], *, cancelled: bool) -> list[PartRow]:
        states = self._counter.states(list(dict.fromkeys(map(leaf_of, parts))))
        runs, failures = self._runs(parts), self._failures(parts)
        rows = []
        for part in parts:
            state, offset = states[leaf_of(part)], part.ordinal % FAN_OUT
            if offset in state.done:
                rows.append(_done(part.ordinal, runs.get(part.ordinal, {})))
            elif offset in state.failed:
                rows.append(_failed(part.ordinal, failures.get(part.ordinal, {})))
            else:
                rows.append(PartRow(ordinal=part.ordinal, state="cancelled" if cancelled else "waiting"))
        return rows

    def _runs(self, parts: list[PartRef]) -> Mapping[int, Item]:
        """Return the stored attributes of successful runs, by ordinal."""
        split_id, first, last = parts[0].split_id, parts[0], parts[-1]
        found: dict[int, Item] = {}
        for leaf in range(first.ordinal // FAN_OUT, last.ordinal // FAN_OUT + 1):
            found |= _by_ordinal(
                self._table.query(
                    self._keys.results(split_id, leaf),
                    since=self._keys.result(first)[1],
                    until=self._keys.result(last)[1],
                    attributes=_RUN,
                )
            )
        if first.total <= KEPT_PARTS:
            found |= self._counter.kept(first.split, first.total)
        return found

    def _failures(self, parts: list[PartRef]) -> Mapping[int, Item]:
        """Return why parts are dead letters, by ordinal."""
        (pk, since), (_, until) = self._keys.failure(parts[0]), self._keys.failure(parts[-1])
        return dict(_by_ordinal(self._table.query(pk, since=since, until=until, attributes=_FAILURE)))


def _by_ordinal(items: Iterable[Item]) -> Iterator[tuple[int, Item]]:
    return ((int(item["sk"].rsplit("#", 1)[-1]), item) for item in items)


def _done(ordinal: int, run: Item) -> PartRow:
    return PartRow(
        ordinal=ordinal, state="done", attempts=run.get("attempts"), run_seconds=run.get("run_seconds")
    )


def _failed(ordinal: int, failure: Item) -> PartRow:
    return PartRow(
        ordinal=ordinal,
        state="failed",
        attempts=failure.get("attempts"),
        error=failure.get("error"),
        message=failure.get("message"),
        failed_at=failure.get("failed_at"),
    )
