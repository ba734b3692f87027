"""The stages that are measured: functions so small that what is left is the system's own work."""

import time
from collections.abc import Iterable, Iterator
from itertools import pairwise

from pipeline import stage


@stage(consumes="bench-numbers", emits="bench-doubled")
def double(number: int) -> int:
    """A stage without a split, in the middle of its path: each run is emitted and recorded."""
    return 2 * number


@stage(consumes="bench-steps", emits="bench-halved", ordered=True)
def halve(number: int) -> float:
    """A stage whose tasks run one after the other, each recorded before the next starts."""
    return number / 2


@stage(consumes="bench-halved")
def halved(_number: float) -> None:
    """What makes ``halve`` not the end of its path."""


@stage(consumes="bench-doubled", emits="bench-named")
def name(number: int) -> str:
    """The next stage of the path."""
    return f"number {number}"


@stage(consumes="bench-named")
def end(_name: str) -> None:
    """The last stage of the path."""


@stage(consumes="bench-ranges", emits="bench-sums")
def square(number: int) -> int:
    """One part of a split job."""
    return number * number


@square.split
def numbers(count: int) -> Iterator[int]:
    """As many parts as the event says."""
    return iter(range(count))


@square.gather
def total(_count: int, squares: Iterable[int]) -> int:
    """All results in one."""
    return sum(squares)


@stage(consumes="bench-queues", emits="bench-orders", ordered=True)
def moment(_number: int) -> float:
    """One part of an ordered split: when it ran, by a clock that all processes of a machine share."""
    return time.monotonic()


@moment.split
def places(count: int) -> Iterator[int]:
    """As many parts as the event says."""
    return iter(range(count))


@moment.gather
def in_order(_count: int, moments: Iterable[float]) -> int:
    """How many ran after the one before them; the first did."""
    return 1 + sum(earlier < later for earlier, later in pairwise(moments))


@stage(consumes="bench-waits")
def seen(_seconds: float) -> None:
    """What makes ``benchmarks.waiting.wait`` not the end of its path."""
