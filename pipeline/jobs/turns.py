"""Turns: which process of a service has a periodic duty now. One item a duty."""

from collections.abc import Callable

from pipeline.jobs.expressions import Item, any_of, equals, outside
from pipeline.jobs.keys import Keys
from pipeline.jobs.table import Table


class Turn:
    """The turn at one duty."""

    def __init__(
        self, table: Table, keys: Keys, duty: str, expiry: Callable[[], int], clock: Callable[[], float]
    ) -> None:
        """``expiry`` gives the ``exp`` of an item written now, ``clock`` the seconds since the epoch."""
        self._table = table
        self._key = keys.turn(duty)
        self._expiry = expiry
        self._clock = clock

    def take(self, seconds: float, holder: str) -> Item | None:
        """Take the turn for so many seconds; return its item, None if another process has it.

        The holder may take it again before it ends, and so keep it.
        """
        now = self._clock()
        updated = self._table.update(
            self._key,
            put={"until": now + seconds, "holder": holder, "exp": self._expiry()},
            # A later end than anybody sets is of a process whose clock is ahead: it holds nobody up.
            when=any_of(outside("until", now, now + 2 * seconds), equals("holder", holder)),
        )
        return updated.item if updated.applied else None

    def release(self, holder: str) -> None:
        """End the turn, if this holder has it."""
        self._table.update(self._key, put={"until": self._clock()}, when=equals("holder", holder))

    def load(self) -> Item:
        """Return the item of the turn; {} before the first one."""
        return self._table.get(self._key) or {}

    def save(self, **attributes: object) -> None:
        """Set attributes of the item."""
        self._table.update(self._key, put={**attributes, "exp": self._expiry()})
