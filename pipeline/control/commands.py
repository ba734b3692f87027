"""The commands that a worker obeys: those that only read, those that ``CONTROL_COMMANDS`` adds, in bounds."""

from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

#: Commands that change nothing, which Flower's pages and ``celery inspect`` send; and two that only make a
#: worker send its events, which Flower and ``celery events`` send when they start.
ALWAYS: Final = frozenset(
    {
        "active",
        "active_queues",
        "clock",
        "conf",
        "enable_events",
        "heartbeat",
        "ping",
        "query_task",
        "registered",
        "report",
        "reserved",
        "revoked",
        "scheduled",
        "stats",
    }
)

#: A pool grows to this many times its size at start: each process needs memory and open files.
GROWTH: Final = 2
#: The limits that a command may set for a task (seconds). The upper one is that of TASK_TIME_LIMIT.
SHORTEST_LIMIT, LONGEST_LIMIT = 1.0, 11 * 3600.0

Arguments = Mapping[str, Any]


def refusal(method: str, arguments: Arguments, allowed: Collection[str], state: Any) -> str | None:
    """Return why a worker does not obey a command; None if it does.

    ``allowed``: the commands of the setting; ``state``: what Celery gives its commands.
    """
    if method not in ALWAYS and method not in allowed:
        return f"CONTROL_COMMANDS of this worker does not allow {method[:50]}"
    bound = _BOUNDS.get(method)
    return bound(arguments, state) if bound else None


def _grow(arguments: Arguments, state: Any) -> str | None:
    count, size = arguments.get("n", 1), state.consumer.pool.num_processes
    most = _most_processes(state)
    if not _is_count(count) or size + count > most:
        return f"the pool has {size} processes and may have {most}, {GROWTH} times what it started with"
    return None


def _shrink(arguments: Arguments, state: Any) -> str | None:
    count, size = arguments.get("n", 1), state.consumer.pool.num_processes
    if not _is_count(count) or count >= size:
        return f"the pool has {size} processes, and one must be left"
    return None


def _autoscale(arguments: Arguments, state: Any) -> str | None:
    most, least = arguments.get("max"), arguments.get("min")
    bound = _most_processes(state)
    if not all(each is None or (_is_count(each) and each <= bound) for each in (most, least)):
        return f"max and min of autoscale are 1 to {bound}, {GROWTH} times what the worker started with"
    return None


def _time_limit(arguments: Arguments, _: Any) -> str | None:
    limits = (arguments.get("hard"), arguments.get("soft"))
    if not all(each is None or (_is_number(each) and _in_limits(each)) for each in limits):
        return f"a time limit is {SHORTEST_LIMIT:.0f} to {LONGEST_LIMIT:.0f} seconds"
    return None


def _registered(arguments: Arguments, _: Any) -> str | None:
    items = arguments.get("taskinfoitems") or []
    if not isinstance(items, list) or any(str(item).startswith("_") for item in items):
        return "an attribute of a task whose name begins with _ is not shown"
    return None


_BOUNDS: Final[Mapping[str, Callable[[Arguments, Any], str | None]]] = {
    "pool_grow": _grow,
    "pool_shrink": _shrink,
    "autoscale": _autoscale,
    "time_limit": _time_limit,
    "registered": _registered,
}


def _most_processes(state: Any) -> int:
    worker = state.consumer.controller
    return GROWTH * int(worker.max_concurrency or worker.concurrency)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _in_limits(value: float) -> bool:
    return SHORTEST_LIMIT <= value <= LONGEST_LIMIT
