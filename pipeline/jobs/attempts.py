"""Attempts: how often a message's task was tried, as a set of receive counts.

A set, so that a write whose reply was lost counts once. Under the message's id as well as the task's, so
that a redriven message starts anew. Only tasks that fail have such an item.
"""

from collections.abc import Callable, Iterable

from pipeline.jobs.keys import Keys
from pipeline.jobs.table import Table


class Attempts:
    """The attempts of all messages."""

    def __init__(self, table: Table, keys: Keys, expiry: Callable[[], int]) -> None:
        """``expiry`` gives the ``exp`` of an item written now."""
        self._table = table
        self._keys = keys
        self._expiry = expiry

    def add(self, task_id: str, message_id: str, receive_count: int) -> int:
        """Record one failed attempt; how many there are now."""
        updated = self._table.update(
            self._keys.attempts(task_id, message_id),
            put={"exp": self._expiry()},
            add={"a": {receive_count}},
        )
        return len(updated.item["a"])

    def count(self, messages: Iterable[tuple[str, str]]) -> dict[tuple[str, str], int]:
        """How many attempts each message (task id, message id) had."""
        keys = {self._keys.attempts(*message): message for message in messages}
        found = self._table.get_many(keys)
        return {message: len(found[key]["a"]) if key in found else 0 for key, message in keys.items()}
