"""The ticks of a schedule that are due now, by its policy for missed ones. Pure functions of two moments."""

from dataclasses import dataclass
from itertools import islice

from pipeline.author.timing import Timing, ticks

#: Seconds after which a tick counts as missed: longer than another bridge takes to go on after a crash.
MISSED_AFTER = 60.0

#: Ticks of one schedule that are fired in a row.
AT_ONCE = 100

#: Seconds to look back for the last tick of a long outage, the shortest first; most have one in an hour.
_BACK = (3_600.0, 86_400.0, 40 * 86_400.0)


@dataclass(frozen=True, kw_only=True)
class Due:
    """What is to be done with a schedule now."""

    #: Ticks to fire, oldest first; ``AT_ONCE`` at most.
    ticks: list[float]
    #: The first tick that the policy passes over; None for none.
    passed_over: float | None = None


def due(timing: Timing, settled_to: float, now: float) -> Due:
    """Return the ticks to fire of those after ``settled_to`` up to ``now``, in seconds since 1970.

    Of the last minute all are fired, whatever the policy: that a bridge died must not skip one. The policy is
    for those before: "all" of them, the last one if nothing else is due ("once"), or none.
    """
    recent = max(settled_to, now - MISSED_AFTER)
    begin = settled_to if timing.missed == "all" else recent
    fired = list(islice(ticks(timing, begin, now), AT_ONCE))
    if not fired and timing.missed == "once" and (last := last_tick(timing, settled_to, recent)):
        fired = [last]
    first = timing.next_after(settled_to)
    is_passed_over = first is not None and first < (fired[0] if fired else recent)
    return Due(ticks=fired, passed_over=first if is_passed_over else None)


def last_tick(timing: Timing, after: float, until: float) -> float | None:
    """Return the last tick after one moment up to another; None for none."""
    for back in _BACK:
        begin = max(after, until - back)
        last = None
        for last in ticks(timing, begin, until):  # noqa: B007 - the last one counts
            pass
        if last is not None or begin == after:
            return last
    return max(ticks(timing, after, until), default=None)
