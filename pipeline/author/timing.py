"""Schedules: the moments at which a stage, or a plain Celery task, is due without an event.

    @stage(emits="report-made", schedule=cron("0 7 * * mon-fri", timezone="Europe/Berlin"))
    def report(tick: Tick) -> Report: ...

A tick is one such moment. Which moments are ticks is a function of the schedule alone: not of when a process
started, and not of the tick before. So every process of a service knows the same ticks.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal, get_args
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from pipeline.errors import StageDefinitionError

#: Which ticks are made up for that were due while no bridge ran: the last one, all, or none.
Missed = Literal["once", "all", "none"]

#: Minute, hour, day of month, month, day of week.
_FIVE_FIELDS: Final = 5


@dataclass(frozen=True, kw_only=True)
class Tick:
    """The data that a scheduled stage takes, unless ``schedule_data`` makes other."""

    #: The name of the stage.
    schedule: str
    #: The moment that was due, in UTC; the task may run later.
    at: datetime


@dataclass(frozen=True, kw_only=True)
class Every:
    """A tick at each multiple of an interval, counted from 1970-01-01 00:00 UTC."""

    seconds: int
    missed: Missed = "once"

    def next_after(self, moment: float) -> float | None:
        """Return the first tick after a moment, in seconds since 1970."""
        return float((math.floor(moment / self.seconds) + 1) * self.seconds)

    @property
    def text(self) -> str:
        """The ticks, as text that ``read_timing`` reads."""
        return f"every {self.seconds} s"


@dataclass(frozen=True, kw_only=True)
class Cron:
    """A tick at each minute that matches five fields, in a time zone.

    The hour that a zone skips: ticks at fixed times in it are due when it would have ended. The hour that a
    zone repeats: they are due once. Ticks of each minute or each hour keep their distance (as Debian's cron).
    """

    expression: str
    #: A name of the time zone database. None: the ``timezone`` of the Celery app, UTC unless it is set.
    timezone: str | None = None
    missed: Missed = "once"
    #: Whether day of month and day of week must both match, as with Celery's crontab; otherwise, where both
    #: are given, one of them is enough, as with cron.
    both_days: bool = False

    def next_after(self, moment: float) -> float | None:
        """Return the first tick after a moment, in seconds since 1970; None for no tick in 50 years."""
        zone = ZoneInfo(self.timezone) if self.timezone else UTC
        ticks = CronSim(self.expression, datetime.fromtimestamp(moment, UTC).astimezone(zone))
        if self.both_days:
            ticks.day_and = True
        for tick in ticks:
            # In the second pass of a repeated hour its local times are of the first one.
            if tick.timestamp() > moment:
                return tick.timestamp()
        return None

    @property
    def text(self) -> str:
        """The ticks, as text that ``read_timing`` reads."""
        both = " both-days" if self.both_days else ""
        return f"cron {' '.join(self.expression.split())} {self.timezone or 'UTC'}{both}"


Timing = Every | Cron


def every(interval: float | timedelta, *, missed: Missed = "once") -> Every:
    """Return the schedule with a tick each ``interval`` (seconds, or a ``timedelta``): whole seconds.

    The ticks are the multiples of the interval since 1970-01-01 00:00 UTC: those of an hour are full hours.
    ``missed``: which ticks are made up for that were due while no bridge ran: ``"once"`` the last of them,
    ``"all"`` or ``"none"``.
    """
    seconds = interval.total_seconds() if isinstance(interval, timedelta) else interval
    if isinstance(seconds, bool) or not math.isfinite(seconds) or seconds < 1 or seconds != int(seconds):
        raise StageDefinitionError(f"every({interval!r}): give whole seconds, 1 or more.")
    return Every(seconds=int(seconds), missed=_checked(missed))


def cron(expression: str, *, timezone: str | None = None, missed: Missed = "once") -> Cron:
    """Return the schedule of a cron expression: minute, hour, day of month, month, day of week.

    ``timezone``: a name such as ``"Europe/Berlin"``; without one the ``timezone`` setting of the Celery app,
    UTC unless it is set. ``missed`` as for ``every``.
    """
    return _check_cron(Cron(expression=expression, timezone=timezone, missed=_checked(missed)))


def timing_of(value: Any) -> Timing:
    """Return the timing that ``every``, ``cron``, a number, a ``timedelta`` or one of Celery's stands for.

    Raise ``StageDefinitionError`` for any other value. Celery's ``schedule`` and ``crontab`` are known by
    their attributes: they tell which ticks they have; those of ``solar`` and of own classes follow from what
    ran before.
    """
    if isinstance(value, Every | Cron):
        return value
    if isinstance(value, int | float | timedelta):
        return every(value)
    if hasattr(value, "month_of_year"):
        days = (value.day_of_month, 1, 31), (value.month_of_year, 1, 12), (value.day_of_week, 0, 6)
        fields = [_field(*each) for each in ((value.minute, 0, 59), (value.hour, 0, 23), *days)]
        return _check_cron(Cron(expression=" ".join(fields), both_days=True))
    if isinstance(interval := getattr(value, "run_every", None), timedelta):
        return every(interval)
    raise StageDefinitionError(
        f"schedule={value!r} has no ticks that every process would know alike. Use every(…), cron(…), "
        "seconds, a timedelta, or Celery's crontab or schedule."
    )


def read_timing(text: str) -> Timing | None:
    """Return the timing of a text as ``Timing.text`` writes it; None for what a later version wrote."""
    match text.split():
        case ["every", seconds, "s"] if seconds.isdecimal():
            return Every(seconds=int(seconds))
        case ["cron", *fields, zone] if len(fields) == _FIVE_FIELDS:
            return Cron(expression=" ".join(fields), timezone=zone)
        case ["cron", *fields, zone, "both-days"] if len(fields) == _FIVE_FIELDS:
            return Cron(expression=" ".join(fields), timezone=zone, both_days=True)
    return None


def ticks(timing: Timing, after: float, until: float) -> Iterator[float]:
    """Yield the ticks after one moment up to another, oldest first."""
    tick = timing.next_after(after)
    while tick is not None and tick <= until:
        yield tick
        tick = timing.next_after(tick)


def _field(values: set[int], first: int, last: int) -> str:
    return "*" if values >= set(range(first, last + 1)) else ",".join(map(str, sorted(values)))


def _checked(missed: Missed) -> Missed:
    if missed not in get_args(Missed):
        raise StageDefinitionError(f"missed={missed!r}. Use one of {', '.join(get_args(Missed))}.")
    return missed


def _check_cron(made: Cron) -> Cron:
    if len(made.expression.split()) != _FIVE_FIELDS:
        raise StageDefinitionError(
            f"cron({made.expression!r}): give five fields: minute, hour, day of month, month, day of week."
        )
    try:
        first = made.next_after(0)
    except CronSimError as error:
        raise StageDefinitionError(f"cron({made.expression!r}): {error}.") from error
    except (ValueError, OSError, LookupError) as error:
        raise StageDefinitionError(
            f"timezone={made.timezone!r} is not in the time zone database: use a name such as Europe/Berlin."
        ) from error
    if first is None:
        raise StageDefinitionError(f"cron({made.expression!r}) has no tick in 50 years.")
    return made
