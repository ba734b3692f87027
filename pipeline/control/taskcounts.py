"""The counters of tasks in a worker's heartbeat: they count all tasks, also those whose events are not sent.

Fields of worker events and of task events beside Celery's. Celery, Flower and earlier jobs pages ignore them.
"""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from pipeline.control.controlmessage import LONGEST_NAME

#: Fields of a worker event: counters by the task's name, since when they count (seconds since 1970), and N
#: where the task events of one job in N are sent.
TASKS, COUNTED_SINCE, ONE_IN = "tasks", "counted_since", "one_in"
#: The field of a succeeded task's event: how many tasks it stands for, if more than itself.
STANDS_FOR = "stands_for"

#: The most names of tasks in a heartbeat: a worker of more sends no counters. It bounds a reader's memory.
MOST_COUNTED = 200
#: The most tasks that a worker may say it ran, and runs.
MOST_ENDED, MOST_AT_ONCE = 10**12, 1_000_000
#: The smallest share of jobs is one in so many.
FEWEST = 2**16


class TaskCount(NamedTuple):
    """The counters of one task's name."""

    #: Runs that ended well, and those that failed, since the worker's start.
    done: int = 0
    failed: int = 0
    #: Runs under way.
    running: int = 0


NOTHING: Final = TaskCount()


def counts_in(event: Mapping[str, Any]) -> dict[str, TaskCount] | None:
    """Return the counters of a worker event by name; None if it has none, or impossible ones."""
    tasks = event.get(TASKS)
    if not isinstance(tasks, dict) or len(tasks) > MOST_COUNTED:
        return None
    counts = {name: _count(value) for name, value in tasks.items() if len(name) <= LONGEST_NAME}
    return {name: count for name, count in counts.items() if count is not None}


def whole(value: object, most: int) -> int | None:
    """Return a whole number of 0 to ``most``; None for any other value."""
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value if 0 <= value <= most else None


def one_in(value: object) -> int:
    """Return N of a share of one in N; 1 for a value that is none."""
    return whole(value, FEWEST) or 1


def _count(value: object) -> TaskCount | None:
    if not isinstance(value, list) or len(value) != len(NOTHING):
        return None
    done, failed, running = (
        whole(value[0], MOST_ENDED),
        whole(value[1], MOST_ENDED),
        whole(value[2], MOST_AT_ONCE),
    )
    return None if done is None or failed is None or running is None else TaskCount(done, failed, running)
