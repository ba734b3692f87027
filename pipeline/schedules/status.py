"""The schedules of a service as people see them: when each was last fired, and when it is due next."""

from dataclasses import dataclass
from typing import Literal

from pipeline.author.timing import read_timing
from pipeline.jobs import ScheduleRecords

#: "unattended": no bridge has the turn. "removed": the bridge with the turn does not have it in its code.
State = Literal["active", "paused", "unattended", "removed"]


@dataclass(frozen=True, kw_only=True)
class ScheduleStatus:
    """One schedule. Moments are in seconds since 1970."""

    name: str
    #: "stage NAME" or "task NAME".
    runs: str
    #: Its ticks, as text.
    ticks: str
    state: State
    #: The last tick that was fired, or that failed; None before the first.
    last_tick: float | None
    fired_at: float | None
    #: Why the last tick started nothing; None if it did.
    error: str | None
    #: The first tick that is not settled, in the past if it is overdue; None if none will be fired.
    next_tick: float | None


def read_schedules(records: ScheduleRecords, now: float) -> list[ScheduleStatus]:
    """Return the schedules of a service, by name."""
    holder = records.holder()
    found = []
    for name, record in sorted(records.all().items()):
        state: State = "active" if holder.until >= now else "unattended"
        if name not in holder.names:
            state = "removed"
        elif record.paused:
            state = "paused"
        timing = read_timing(record.timing)
        is_due = timing is not None and state in ("active", "unattended")
        found.append(
            ScheduleStatus(
                name=name,
                runs=record.runs,
                ticks=record.timing,
                state=state,
                last_tick=record.tick,
                fired_at=record.fired_at,
                error=record.error,
                next_tick=timing.next_after(record.settled_to) if timing and is_due else None,
            )
        )
    return found
