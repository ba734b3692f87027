"""Attempts: the failed runs of a message, and the verdict that it is not run again."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from pipeline.jobs.expressions import Item
from pipeline.jobs.keys import Keys
from pipeline.jobs.table import Table

#: Characters kept of a verdict's message and, from its end, of its traceback; the errors topic has more.
MESSAGE_CHARACTERS, TRACEBACK_CHARACTERS = 2_000, 4_000


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A failure that trying again would not change."""

    #: The class of the exception.
    error: str
    message: str
    traceback: str = ""


@dataclass(frozen=True, kw_only=True)
class PastAttempts:
    """The recorded attempts of a message."""

    #: How many runs failed.
    count: int = 0
    #: None while the message may be run again.
    verdict: Verdict | None = None


class Attempts:
    """The failed runs of messages, as sets of receive counts.

    A set, so that a write whose reply was lost counts once; under the message's id as well as the task's, so
    that a redriven message starts anew. Only tasks that fail have such an item.
    """

    def __init__(self, table: Table, keys: Keys, expiry: Callable[[], int]) -> None:
        """``expiry`` gives the ``exp`` of an item written now."""
        self._table = table
        self._keys = keys
        self._expiry = expiry

    def add(self, task_id: str, message_id: str, receive_count: int, verdict: Verdict | None = None) -> int:
        """Record one failed attempt of a message; return how many there are now.

        ``verdict``: why it is the last. Record it before the message is dead-lettered: if that is cut off,
        the redelivery continues it and runs no user code.
        """
        updated = self._table.update(
            self._keys.attempts(task_id, message_id),
            put={"exp": self._expiry(), **_fields(verdict)},
            add={"a": {receive_count}},
        )
        return len(updated.item["a"])

    def look_up(self, messages: Iterable[tuple[str, str]]) -> dict[tuple[str, str], PastAttempts]:
        """Return the attempts of each message (task id, message id)."""
        keys = {self._keys.attempts(*message): message for message in messages}
        found = self._table.get_many(keys)
        return {message: _read(found.get(key, {})) for key, message in keys.items()}


def _fields(verdict: Verdict | None) -> dict[str, Any]:
    if verdict is None:
        return {}
    return {
        "error": verdict.error,
        "message": verdict.message[:MESSAGE_CHARACTERS],
        "traceback": verdict.traceback[-TRACEBACK_CHARACTERS:],
    }


def _read(item: Item) -> PastAttempts:
    verdict = None
    if "error" in item:
        verdict = Verdict(error=item["error"], message=item["message"], traceback=item["traceback"])
    return PastAttempts(count=len(item.get("a", ())), verdict=verdict)
