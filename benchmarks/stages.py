"""The stages that are measured: functions so small that only the system's own work remains."""

import time
from collections.abc import Iterable, Iterator
from itertools import pairwise

from pipeline import stage

#: The parts of a whole job that is split.
FLOW_PARTS = 4


@stage(consumes="bench-numbers", emits="bench-doubled")
def double(number: int) -> int:
    """Emit and record each run: a stage without a split, in the middle of its path."""
    return 2 * number


@stage(consumes="bench-steps", emits="bench-halved", ordered=True)
def halve(number: int) -> float:
    """Run tasks one after the other."""
    return number / 2


@stage(consumes="bench-halved")
def halved(_number: float) -> None:
    """Follow ``halve``, so that it does not end its path."""


@stage(consumes="bench-doubled", emits="bench-named")
def name(number: int) -> str:
    """Run as the next stage of the path."""
    return f"number {number}"


@stage(consumes="bench-named")
def end(_name: str) -> None:
    """Run as the last stage of the path."""


@stage(consumes="bench-flows", emits="bench-begun")
def begin(number: int) -> int:
    """Run as the first stage of a whole job."""
    return number


@stage(consumes="bench-begun", emits="bench-joined")
def work(part: int) -> int:
    """Run one of its parts."""
    return part


@work.split
def four(_number: int) -> Iterator[int]:
    """Make ``FLOW_PARTS`` parts."""
    return iter(range(FLOW_PARTS))


@work.gather
def join(_number: int, parts: Iterable[int]) -> int:
    """Combine the results."""
    return sum(parts)


@stage(consumes="bench-joined")
def finish(_total: int) -> None:
    """Run as its last stage."""


@stage(consumes="bench-ranges", emits="bench-sums")
def square(number: int) -> int:
    """Run one part of a split job."""
    return number * number


@square.split
def numbers(count: int) -> Iterator[int]:
    """Make as many parts as the event says."""
    return iter(range(count))


@square.gather
def total(_count: int, squares: Iterable[int]) -> int:
    """Combine all results."""
    return sum(squares)


@stage(consumes="bench-queues", emits="bench-orders", ordered=True)
def moment(_number: int) -> float:
    """Return when one part of an ordered split ran, by a clock that all processes of a machine share."""
    return time.monotonic()


@moment.split
def places(count: int) -> Iterator[int]:
    """Make as many parts as the event says."""
    return iter(range(count))


@moment.gather
def in_order(_count: int, moments: Iterable[float]) -> int:
    """Count the parts that ran after the one before them; the first did."""
    return 1 + sum(earlier < later for earlier, later in pairwise(moments))


@stage(consumes="bench-waits")
def seen(_seconds: float) -> None:
    """Follow ``benchmarks.waiting.wait``, so that it does not end its path."""
