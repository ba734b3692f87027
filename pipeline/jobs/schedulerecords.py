"""Schedules: up to which moment the ticks of each are settled. One item a schedule, under one key."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from pipeline.jobs.expressions import equals, missing, present
from pipeline.jobs.keys import Keys
from pipeline.jobs.table import Table
from pipeline.jobs.turns import Turn

#: The duty whose turn it is.
SCHEDULES = "schedules"

#: Begins the names of entries of Celery's ``beat_schedule``: no stage's name has a colon.
BEAT_PREFIX = "beat:"

#: Characters of an error that are kept.
ERROR_KEPT = 500


@dataclass(frozen=True, kw_only=True)
class ScheduleRecord:
    """A schedule, as a bridge with the turn recorded it. Moments are in seconds since 1970."""

    #: The name of its stage; of an entry of ``beat_schedule``: ``BEAT_PREFIX`` and its name.
    name: str
    #: Its ticks, as ``pipeline.author.timing.read_timing`` reads them.
    timing: str
    #: What a tick makes: "stage NAME" or "task NAME".
    runs: str
    #: Every tick up to this moment is settled: fired, missed by policy, or failed.
    settled_to: float
    #: The last tick that was fired or failed, and when.
    tick: float | None = None
    fired_at: float | None = None
    #: Why that tick started nothing; None if it did.
    error: str | None = None
    paused: bool = False


@dataclass(frozen=True, kw_only=True)
class Holder:
    """The process with the turn, as it announced itself."""

    #: The schedules of its code; empty before the first one.
    names: frozenset[str] = frozenset()
    #: The end of its turn: nobody fires after it.
    until: float = 0.0


class ScheduleRecords:
    """The records of one service's schedules, and the turn at firing them."""

    def __init__(
        self, table: Table, keys: Keys, expiry: Callable[[], int], clock: Callable[[], float]
    ) -> None:
        """``expiry`` gives the ``exp`` of an item written now, ``clock`` the seconds since the epoch."""
        self._table = table
        self._keys = keys
        self._expiry = expiry
        self._turn = Turn(table, keys, SCHEDULES, expiry, clock)

    # ─── The turn ───

    def take_turn(self, seconds: float, holder: str) -> Holder | None:
        """Take the turn, or keep it; None if another process has it.

        The answer has the names that the last ``announce`` told, by this process or the one before it.
        """
        item = self._turn.take(seconds, holder)
        return None if item is None else _holder(item)

    def announce(self, names: Iterable[str]) -> None:
        """Record the schedules of the process that has the turn."""
        self._turn.save(names=sorted(names))

    def release_turn(self, holder: str) -> None:
        """End the turn, if this process has it."""
        self._turn.release(holder)

    def holder(self) -> Holder:
        """Return what the last process with the turn told."""
        return _holder(self._turn.load())

    # ─── The records ───

    def all(self) -> dict[str, ScheduleRecord]:
        """Return every record by name, also of schedules that are in no process's code any more."""
        known = ScheduleRecord.__dataclass_fields__
        return {
            item["sk"]: ScheduleRecord(name=item["sk"], **{each: item[each] for each in known & item.keys()})
            for item in self._table.query(self._keys.schedules())
        }

    def begin(self, record: ScheduleRecord, seen: ScheduleRecord | None) -> bool:
        """Write a new definition of a schedule; whether its record was as ``seen`` (None: there was none)."""
        put = {"timing": record.timing, "runs": record.runs, "settled_to": record.settled_to}
        return self._write(record.name, seen, put)

    def settle(self, seen: ScheduleRecord, to: float) -> bool:
        """Settle the ticks up to a moment without firing; whether the record was as ``seen``."""
        return self._write(seen.name, seen, {"settled_to": to})

    def record(self, seen: ScheduleRecord, tick: float, now: float, error: str | None = None) -> bool:
        """Record that a tick was fired, or why it never can be; whether the record was as ``seen``."""
        put = {"settled_to": tick, "tick": tick, "fired_at": round(now, 3)}
        if error is None:
            return self._write(seen.name, seen, put, remove=["error"])
        return self._write(seen.name, seen, {**put, "error": error[:ERROR_KEPT]})

    def pause(self, name: str, *, paused: bool, now: float) -> bool:
        """Pause a schedule, or resume it: its ticks up to now are settled; whether there is such a record."""
        put = {"paused": paused, "settled_to": round(now, 3), "exp": self._expiry()}
        return self._table.update(self._keys.schedule(name), put=put, when=present("timing")).applied

    def _write(
        self, name: str, seen: ScheduleRecord | None, put: dict[str, Any], remove: Iterable[str] = ()
    ) -> bool:
        when = equals("settled_to", seen.settled_to) if seen else missing("settled_to")
        return self._table.update(
            self._keys.schedule(name), put={**put, "exp": self._expiry()}, remove=remove, when=when
        ).applied


def _holder(item: dict[str, Any]) -> Holder:
    return Holder(names=frozenset(item.get("names", ())), until=item.get("until", 0.0))
