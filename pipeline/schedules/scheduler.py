"""The scheduler of one process: it fires the ticks that are due while it has the turn.

A tick is fired first and recorded after. A process that dies in between leaves it to the next one, which
fires it again under the same ids: a job that exists is not opened again, and SQS drops a task that it had
within five minutes (ADR 39).
"""

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

import structlog

from pipeline.author.timing import Timing, read_timing
from pipeline.errors import ServiceError
from pipeline.jobs import ScheduleRecord, ScheduleRecords
from pipeline.schedules.due import AT_ONCE, MISSED_AFTER, due
from pipeline.schedules.schedule import Schedule
from pipeline.telemetry import metrics

log = structlog.get_logger(__name__)

#: Seconds of a turn, the longest between two looks, and those before the end in which nothing is fired.
TURN, LOOK_EVERY, MARGIN = 15.0, 5.0, 2.0

#: Ticks settled later than this from now (seconds) are of a process whose clock was wrong.
AHEAD = 86_400.0

#: Seconds after which the record of a schedule is written again, so that it does not expire between ticks.
REFRESH = 86_400.0


class Scheduler:
    """Fires the schedules of one process. One thread uses it."""

    def __init__(
        self,
        records: ScheduleRecords,
        schedules: Sequence[Schedule],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``clock`` gives the seconds since 1970."""
        self._records = records
        self._schedules = schedules
        self._clock = clock
        self._id = str(uuid.uuid4())
        self._own = frozenset(schedule.name for schedule in schedules)
        for name in self._own:
            for outcome in ("fired", "failed", "missed"):
                # Begin at 0, so that the first one is an increase.
                metrics.SCHEDULE_TICKS.labels(name, outcome)
        #: The schedules that the table has as those of the process with the turn.
        self._known = frozenset[str]()
        #: The end of this process's turn, and when it is taken again.
        self._until = self._renew_at = 0.0
        self._refresh_at = 0.0

    def look(self) -> float:
        """Fire what is due, if the turn is this process's; return the seconds until the next look."""
        now = self._clock()
        if not self._keep_turn(now):
            return LOOK_EVERY
        records = self._records.all()
        is_behind = False
        for schedule in self._schedules:
            seen = records.get(schedule.name)
            if seen is None or schedule.name not in self._known or seen.settled_to > now + AHEAD:
                self._begin(schedule, seen, now)
            else:
                is_behind |= self._advance(schedule, seen, now)
        if self._known != self._own:
            # Only now: the others began, and the next process with the turn goes on with them.
            self._records.announce(self._own)
            self._known = self._own
        self._refresh(records, now)
        return 0.0 if is_behind else self._seconds_to_next()

    def end(self) -> None:
        """Leave the turn to another process."""
        if self._until:
            self._until = 0.0
            self._records.release_turn(self._id)

    def _keep_turn(self, now: float) -> bool:
        """Take the turn, or keep it; whether this process has it."""
        if self._renew_at - LOOK_EVERY <= now < self._renew_at:
            return True
        holder = self._records.take_turn(TURN, self._id)
        if holder is None:
            self._until = self._renew_at = 0.0
            return False
        if not self._until:
            log.info("schedules.turn", schedules=len(self._own), left_out=sorted(holder.names - self._own))
        self._known = holder.names
        self._until, self._renew_at = now + TURN, now + LOOK_EVERY
        return True

    def _has_turn(self) -> bool:
        return self._until - TURN <= self._clock() < self._until - MARGIN

    def _begin(self, schedule: Schedule, seen: ScheduleRecord | None, now: float) -> None:
        """Record a schedule that is new, or defined anew: it has no ticks of the past.

        New is what the process that had the turn before did not have, too, although its record may be there
        from an earlier version.
        """
        if seen is not None and seen.settled_to > now + AHEAD:
            log.error("schedule.clock", schedule=schedule.name, settled_to=_iso(seen.settled_to))
        record = ScheduleRecord(
            name=schedule.name, timing=schedule.timing.text, runs=schedule.runs, settled_to=round(now, 3)
        )
        if self._records.begin(record, seen):
            log.info("schedule.begun", schedule=schedule.name, timing=record.timing)

    def _advance(self, schedule: Schedule, seen: ScheduleRecord, now: float) -> bool:
        """Settle the ticks of a schedule up to now; whether more of them are due at once."""
        if (seen.timing, seen.runs) == (schedule.timing.text, schedule.runs):
            return self._settle(schedule, schedule.timing, seen, now)[1]
        # What was due before the definition changed is due as it was defined then.
        before = read_timing(seen.timing)
        if before is not None:
            before = replace(before, missed=schedule.timing.missed)
            settled, is_behind = self._settle(schedule, before, seen, now)
            if settled is None or is_behind:
                return is_behind
            seen = settled
        self._begin(schedule, seen, max(now, seen.settled_to))
        return False

    def _settle(
        self, schedule: Schedule, timing: Timing, seen: ScheduleRecord, now: float
    ) -> tuple[ScheduleRecord | None, bool]:
        """Fire the ticks up to now, and record each.

        Return the record as it is then, None if ticks are left that cannot be fired now; and whether more are
        due at once.
        """
        if seen.paused:
            first = timing.next_after(seen.settled_to)
            is_due = first is not None and first <= now
            return (self._pass_over(seen, now) if is_due else seen), False
        found = due(timing, seen.settled_to, now)
        if found.passed_over is not None:
            metrics.SCHEDULE_TICKS.labels(schedule.name, "missed").inc()
            log.warning(
                "schedule.missed", schedule=schedule.name, first=_iso(found.passed_over), missed=timing.missed
            )
        if not found.ticks:
            return (self._pass_over(seen, now - MISSED_AFTER) if found.passed_over else seen), False
        for tick in found.ticks:
            if not self._has_turn() or not (recorded := self._fire(schedule, seen, tick)):
                return None, False
            seen = recorded
        return seen, len(found.ticks) == AT_ONCE

    def _fire(self, schedule: Schedule, seen: ScheduleRecord, tick: float) -> ScheduleRecord | None:
        """Fire a tick and record it; return the record as it is then, None to look again later."""
        fault = None
        try:
            schedule.fire(tick)
        except ServiceError as error:
            log.warning("schedule.waits", schedule=schedule.name, tick=_iso(tick), error=str(error))
            return None
        except Exception as error:  # noqa: BLE001 - user code may raise anything
            fault = f"{type(error).__name__}: {error}"
            log.error("schedule.failed", schedule=schedule.name, tick=_iso(tick), error=fault)
        now = self._clock()
        metrics.SCHEDULE_TICKS.labels(schedule.name, "failed" if fault else "fired").inc()
        if not fault:
            late = round(now - tick, 3)
            log.info("schedule.fired", schedule=schedule.name, tick=_iso(tick), late_seconds=late)
        is_written = self._records.record(seen, tick, now, fault)
        return replace(seen, settled_to=tick) if is_written else None

    def _pass_over(self, seen: ScheduleRecord, to: float) -> ScheduleRecord | None:
        to = round(to, 3)
        return replace(seen, settled_to=to) if self._records.settle(seen, to) else None

    def _refresh(self, records: Mapping[str, ScheduleRecord], now: float) -> None:
        if now < self._refresh_at:
            return
        self._refresh_at = now + REFRESH
        for name in self._own & records.keys():
            # Not applied where it was just written, which is as good.
            self._records.settle(records[name], records[name].settled_to)

    def _seconds_to_next(self) -> float:
        now = self._clock()
        following = (schedule.timing.next_after(now) for schedule in self._schedules)
        return min([LOOK_EVERY, *(tick - now for tick in following if tick is not None)])


def _iso(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
