"""Task results: how plain tasks ended and what they returned, for a caller who asks by a task's id.

A record is written with a rank, and a lower rank never replaces a higher one: a success is final, whatever is
delivered again, and a failure gives way only to a success (of a redriven task, say).
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from pipeline.errors import ServiceError
from pipeline.jobs.expressions import Condition, Item, below, missing
from pipeline.jobs.keys import Key, Keys
from pipeline.jobs.table import ITEM_BYTES, Table
from pipeline.payloads import Payloads
from pipeline.wire.references import from_text, to_text

#: Celery's states in which a task is over, with their ranks. All other states rank below.
SUCCESS: Final = "SUCCESS"
RANKS: Final = {SUCCESS: 2, "FAILURE": 1, "REVOKED": 1}

#: Ids that an object on S3 may carry as they are.
_PLAIN_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,200}", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class RecordedResult:
    """The state of one task, and what Celery tells about it."""

    task_id: str
    #: Celery's name of the state, or one of the task's own.
    state: str
    #: JSON of what Celery calls the task's meta: result, traceback, children and so on.
    text: str
    #: The message whose run ended so; None for a state that the task wrote while it ran.
    message_id: str | None = None
    #: How long it is kept (seconds); None: for ever.
    keep_seconds: float | None = None


class TaskResults:
    """The results of one service's plain tasks, and its saved groups.

    An item over ``ITEM_BYTES`` has its text on S3.
    """

    def __init__(self, table: Table, keys: Keys, payloads: Payloads, clock: Callable[[], float]) -> None:
        self._table = table
        self._keys = keys
        self._payloads = payloads
        self._clock = clock

    def takes(self, text: str) -> bool:
        """Whether a text of this size can be stored."""
        return self._payloads.bucket is not None or len(text.encode()) <= ITEM_BYTES

    def put(self, result: RecordedResult) -> None:
        """Record a state, unless a record of the same or a higher rank is there. Raise ``ServiceError``."""
        self._replace(self._keys.task_result(result.task_id), self._item(result), result.state)

    def put_many(self, results: Sequence[RecordedResult]) -> list[ServiceError | None]:
        """Record states as ``put`` does, 25 in a request where nothing was recorded before.

        Return for each None or its error.
        """
        errors: list[ServiceError | None] = [None] * len(results)
        items: dict[int, tuple[Key, Item]] = {}
        for at, result in enumerate(results):
            try:
                items[at] = self._keys.task_result(result.task_id), self._item(result)
            except ServiceError as refused:
                errors[at] = refused
        first = {key: at for at, (key, _) in reversed(items.items())}
        inserted = self._table.insert_many([items[at] for at in first.values()])
        for at, error in zip(first.values(), inserted.errors, strict=True):
            errors[at] = error
        for at, (key, item) in items.items():
            # A task that began before has an item, and of two results of one batch the first one has.
            if errors[at] is None and (first[key] != at or key in inserted.existing):
                try:
                    self._replace(key, item, results[at].state)
                except ServiceError as refused:
                    errors[at] = refused
        return errors

    def get(self, task_id: str) -> RecordedResult | None:
        """Return what is recorded of a task. A strongly consistent read: one unit for each 4 KB."""
        item = self._table.get(self._keys.task_result(task_id))
        return self._read(task_id, item or {})

    def get_many(self, task_ids: Iterable[str]) -> dict[str, RecordedResult]:
        """Return what is recorded of tasks, by id, as ``get`` does; 100 in a request."""
        keys = {self._keys.task_result(task_id): task_id for task_id in task_ids}
        found = self._table.get_many(keys)
        results = {task_id: self._read(task_id, found.get(key, {})) for key, task_id in keys.items()}
        return {task_id: result for task_id, result in results.items() if result is not None}

    def ended_by(self, messages: Iterable[tuple[str, str]]) -> set[tuple[str, str]]:
        """Return those messages (task id, message id) whose own run succeeded and was recorded."""
        keys = {self._keys.task_result(task_id): (task_id, message_id) for task_id, message_id in messages}
        found = self._table.get_many(keys)
        return {
            message
            for key, message in keys.items()
            if (item := found.get(key, {})).get("s") == SUCCESS and item.get("m") == message[1]
        }

    def forget(self, task_id: str) -> None:
        """Delete what is recorded of a task."""
        self._write(self._keys.task_result(task_id), None)

    # ─── Groups ───

    def save_group(self, group_id: str, text: str, keep_seconds: float | None) -> None:
        """Save the ids of a group's tasks (JSON) under its own."""
        item = {"r": self._kept(group_id, text), **self._expiry(keep_seconds)}
        self._write(self._keys.group_result(group_id), item)

    def group(self, group_id: str) -> str | None:
        """Return the text of a saved group; None when there is none."""
        item = self._table.get(self._keys.group_result(group_id)) or {}
        return self._payloads.text(from_text(item["r"])) if self._is_live(item) else None

    def forget_group(self, group_id: str) -> None:
        """Delete a saved group; the results of its tasks stay."""
        self._write(self._keys.group_result(group_id), None)

    # ─── Items ───

    def _item(self, result: RecordedResult) -> Item:
        return {
            "s": result.state,
            "r": self._kept(result.task_id, result.text),
            "end": RANKS.get(result.state),
            "m": result.message_id,
            **self._expiry(result.keep_seconds),
        }

    def _replace(self, key: Key, item: Item, state: str) -> None:
        put = {name: value for name, value in item.items() if value is not None}
        may: Condition = below("end", RANKS[SUCCESS]) if state == SUCCESS else missing("end")
        self._table.update(key, put=put, remove=() if "exp" in put else ("exp",), when=may)

    def _write(self, key: Key, item: Item | None) -> None:
        for error in self._table.put_many({key: item}).values():
            raise error

    def _read(self, task_id: str, item: Item) -> RecordedResult | None:
        if not self._is_live(item):
            return None
        text = self._payloads.text(from_text(item["r"]))
        return RecordedResult(task_id=task_id, state=item["s"], text=text, message_id=item.get("m"))

    def _is_live(self, item: Item) -> bool:
        """Whether there is an item, and it is not over: DynamoDB may delete it days later."""
        return "r" in item and item.get("exp", float("inf")) > self._clock()

    def _expiry(self, seconds: float | None) -> Item:
        return {} if seconds is None else {"exp": int(self._clock() + seconds)}

    def _kept(self, id: str, text: str) -> str:
        data = text.encode()
        if len(data) <= ITEM_BYTES:
            return text
        name = id if _PLAIN_ID.fullmatch(id) else sha256(id.encode()).hexdigest()
        return to_text(self._payloads.put("result", name, data))
