"""A schedule of this process: when it has ticks, and how one of them is fired."""

from collections.abc import Callable
from dataclasses import dataclass

from pipeline.author.timing import Timing


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """When something is due, and what is then started."""

    #: As in ``ScheduleRecord``.
    name: str
    runs: str
    #: Its time zone is set.
    timing: Timing
    #: Starts what the tick (seconds since 1970) makes, under ids that are functions of schedule and tick.
    #: Raises a ``ServiceError`` if it is to be fired again, any other exception if it never can be.
    fire: Callable[[float], None]
