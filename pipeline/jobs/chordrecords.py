"""Chords: the ends of a header's tasks, counted as a set, and the one decision that follows from them.

A header task that ended has an item of its own: written where there is none, so a duplicate counts once. Its
size is known only when the last header task is about to be sent (a header may be a generator), and a header
may hold groups and chains, so there are no ordinals to count by, as the parts of a split have. Instead each
batch of ends adds its number to the chord's record, *after* the items are written. Repeated after a lost
reply or a crash, that number is too high, never too low: so the end that completes the set always finds it
high enough, and reads the items, which tell the truth. Where they are not complete yet, the record keeps how
high the number must be for the next look: each end that is missing will add at least one.

The decision (run the body, or fail it) is pinned by one conditional write before anything is published, and
the record is closed once that is acknowledged. A crash in between is repaired by the redelivery of the header
task whose end completed the set: it decides the same, and publishes the same ids.

Done wins over failed until the decision, as in the counter of a split.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.errors import ResultTooLargeError, ServiceError
from pipeline.jobs.expressions import Item, below, missing
from pipeline.jobs.keys import Key, Keys
from pipeline.jobs.table import ITEM_BYTES, Table
from pipeline.payloads import SET_BUCKET, Payloads, PayloadsOffError
from pipeline.wire.references import from_text, to_text

#: Header tasks whose ends are under one partition key: DynamoDB writes 1,000 units a second to one.
LEAF = 1_000
#: The largest index of a header task; one without an index comes last.
LAST_INDEX = 999_999_999

#: Why an end is not recorded; None where it is.
Refused = ServiceError | ResultTooLargeError | None


@dataclass(frozen=True, kw_only=True)
class ChordPart:
    """A header task: two of a header may share a task id (one frozen signature twice), or an index."""

    chord_id: str
    task_id: str
    index: int = LAST_INDEX


@dataclass(frozen=True, kw_only=True)
class PartFailure:
    """Why a header task failed for good."""

    task_id: str
    #: The exception's class, with its module.
    error: str
    message: str


@dataclass(frozen=True, kw_only=True)
class PartEnd:
    """The end of a header task: its result (JSON), or why it failed."""

    part: ChordPart
    result: str | None = None
    failure: PartFailure | None = None


@dataclass(frozen=True, kw_only=True)
class RecordedEnds:
    """The answer to a batch of ends."""

    #: For each end None, or the error with which it is not recorded.
    errors: Sequence[Refused]
    #: The chords that may be complete: ``decide`` them before the messages of their ends are deleted.
    full: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The end of a complete header: the same for every process that asks."""

    #: The results as the body takes them: a JSON array. None where a header task failed.
    results: str | None = None
    failure: PartFailure | None = None


class ChordRecords:
    """The chords of one service."""

    def __init__(self, table: Table, keys: Keys, expiry: Callable[[], int], payloads: Payloads) -> None:
        """``expiry`` gives the ``exp`` of an item written now. ``payloads`` keep results too large here."""
        self._table = table
        self._keys = keys
        self._expiry = expiry
        self._payloads = payloads

    # ─── By the process that publishes the header ───

    def set_size(self, chord_id: str, size: int) -> None:
        """Set how many header tasks there are; before the last of them is sent."""
        self._table.update(self._keys.chord(chord_id), put={"n": size, "exp": self._expiry()})

    def set_shape(self, chord_id: str, shape: Sequence[Any]) -> None:
        """Keep the task ids of a header whose results are nested lists, as they are nested."""
        self._table.update(
            self._keys.chord(chord_id), put={"shape": json.dumps(shape), "exp": self._expiry()}
        )

    def add_task(self, chord_id: str, task_id: str) -> None:
        """Expect one more header task. Only a header task that has not ended may add one."""
        self._table.update(self._keys.chord(chord_id), put={"exp": self._expiry()}, add={"more": {task_id}})

    # ─── By settlement ───

    def record(self, ends: Sequence[PartEnd]) -> RecordedEnds:
        """Record ends: an item each, 25 in a request, then one write a chord. Repeat those with an error."""
        errors: list[Refused] = [None] * len(ends)
        self._write(ends, errors)
        positions: dict[str, list[int]] = {}
        for at, end in enumerate(ends):
            if errors[at] is None:
                positions.setdefault(end.part.chord_id, []).append(at)
        leaves = {
            chord_id: {_leaf(ends[at].part) for at in counted} for chord_id, counted in positions.items()
        }
        answers = self._table.each(
            lambda chord_id: self._count(chord_id, len(positions[chord_id]), leaves[chord_id]),
            list(positions),
        )
        full = set()
        for (chord_id, counted), answer in zip(positions.items(), answers, strict=True):
            if isinstance(answer, ServiceError):
                for at in counted:
                    errors[at] = answer
            elif answer:
                full.add(chord_id)
        return RecordedEnds(errors=errors, full=frozenset(full))

    def decide(self, chord_id: str) -> Decision | None:
        """Return what is to be published; None while header tasks are missing, and for a closed chord."""
        key = self._keys.chord(chord_id)
        record = self._table.get(key) or {}
        if "n" not in record or "closed_at" in record:
            return None
        parts = list(self._parts(chord_id, record.get("leaves", ())))
        lacking = _total(record) - len(parts)
        if lacking > 0:
            look_at = record.get("count", 0) + lacking
            self._table.update(key, put={"look_at": look_at}, when=below("look_at", look_at))
            return None
        failed = next((each for each in parts if "result" not in each), None)
        decided: Item = {"ended": "done"}
        if failed is not None:
            decided = {"ended": "failed", "failed": _failure_item(failed)}
        pinned = self._table.update(key, put={**decided, "exp": self._expiry()}, when=missing("ended")).item
        if pinned["ended"] == "failed":
            return Decision(failure=PartFailure(**pinned["failed"]))
        if failed is not None:
            # Redriven, it went well after it was read here, and another process decided.
            parts = list(self._parts(chord_id, record["leaves"]))
        return Decision(results=self._results(parts, pinned.get("shape")))

    def close(self, chord_id: str, now: float) -> None:
        """Note that what was decided is published."""
        self._table.update(
            self._keys.chord(chord_id), put={"closed_at": round(now, 3), "exp": self._expiry()}
        )

    # ─── Items ───

    def _write(self, ends: Sequence[PartEnd], errors: list[Refused]) -> None:
        """Write the items of ends; a failure never takes the place of a result."""
        items: dict[Key, Item] = {}
        keys: dict[int, Key] = {}
        for at, end in enumerate(ends):
            try:
                item = self._item(end)
            except (ServiceError, ResultTooLargeError) as refused:
                errors[at] = refused
                continue
            keys[at] = key = self._keys.chord_part(
                end.part.chord_id, _leaf(end.part), end.part.index, end.part.task_id
            )
            if key not in items or "result" not in items[key]:
                items[key] = item
        inserted = self._table.insert_many(list(items.items()))
        failed = {key: error for key, error in zip(items, inserted.errors, strict=True) if error}
        done = {key: items[key] for key in inserted.existing if "result" in items[key]}
        failed |= self._table.set_many(done, unless="result")
        for at, key in keys.items():
            errors[at] = failed.get(key)

    def _item(self, end: PartEnd) -> Item:
        common: Item = {"task_id": end.part.task_id, "exp": self._expiry()}
        if end.failure is not None:
            failure = end.failure
            return {**common, "culprit": failure.task_id, "error": failure.error, "message": failure.message}
        text = end.result or "null"
        data = text.encode()
        if len(data) <= ITEM_BYTES:
            return {**common, "result": text}
        part = end.part
        name = hashlib.sha256(f"{part.chord_id}\n{part.index}\n{part.task_id}".encode()).hexdigest()
        try:
            return {**common, "result": to_text(self._payloads.put("result", name, data))}
        except PayloadsOffError as error:
            raise ResultTooLargeError(
                f"The result of task {part.task_id}, in the header of a chord, has {len(data):,} bytes of "
                f"JSON, a DynamoDB item holds {ITEM_BYTES:,}: {SET_BUCKET}"
            ) from error

    def _count(self, chord_id: str, ends: int, leaves: set[int]) -> bool:
        """Add ends to the number of a chord; return whether they may be all."""
        record = self._table.update(
            self._keys.chord(chord_id), put={"exp": self._expiry()}, add={"count": ends, "leaves": leaves}
        ).item
        if "n" not in record or "closed_at" in record:
            return False
        return bool(record["count"] >= max(_total(record), record.get("look_at", 0)))

    def _parts(self, chord_id: str, leaves: Sequence[int]) -> Iterator[Item]:
        """Yield the items of a chord's ends, by index."""
        pks = [self._keys.chord_leaf(chord_id, leaf) for leaf in sorted(leaves)]
        for items in self._table.query_each(pks):
            yield from items

    def _results(self, parts: Sequence[Item], shape: str | None) -> str:
        """Return the results as a JSON array, nested as the header is."""
        texts = [self._payloads.text(from_text(each["result"])) for each in parts]
        if shape is None:
            return f"[{','.join(texts)}]"
        by_id = dict(zip((each["task_id"] for each in parts), texts, strict=True))
        used: set[str] = set()
        nested = _nested(json.loads(shape), by_id, used)
        # Tasks that were added to the header while it ran stand in no shape.
        more = [text for task_id, text in by_id.items() if task_id not in used]
        return f"[{','.join([*nested, *more])}]"


def _nested(shape: Sequence[Any], by_id: Mapping[str, str], used: set[str]) -> list[str]:
    texts = []
    for each in shape:
        if isinstance(each, str):
            used.add(each)
            texts.append(by_id.get(each, "null"))
        else:
            texts.append(f"[{','.join(_nested(each, by_id, used))}]")
    return texts


def _leaf(part: ChordPart) -> int:
    return part.index // LEAF


def _total(record: Item) -> int:
    return int(record["n"]) + len(record.get("more", ()))


def _failure_item(part: Item) -> Item:
    return {"task_id": part["culprit"], "error": part["error"], "message": part["message"]}
