"""Stages for the test of what each process is allowed: named in TASK_MODULES, loaded by nothing else."""

from collections.abc import Iterable, Iterator

from pipeline import stage
from tests.integration.mending import work


@stage(consumes="lists", emits="baskets", retries=1, retry_delay=0.2)
def buy(what: str) -> int:
    """One thing of a list."""
    work(what)
    return 1


@buy.split
def things(names: list[str]) -> Iterator[str]:
    """A task a thing."""
    yield from names


@buy.gather
def basket(names: list[str], bought: Iterable[int]) -> int:
    """All of a list."""
    return sum(bought)


@stage(consumes="baskets")
def carry(count: int) -> None:
    """The last stage emits nothing."""
