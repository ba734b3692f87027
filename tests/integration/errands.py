"""Stages for the test of each process's rights: named in TASK_MODULES, loaded by nothing else."""

from collections.abc import Iterable, Iterator

from pipeline import stage
from tests.integration.mending import work


@stage(consumes="lists", emits="baskets", retries=1, retry_delay=0.2)
def buy(what: str) -> str:
    """One thing of a list, and a label that is too large for the counter of a split (ADR 23)."""
    work(what.strip())
    return what.ljust(1_000)


@buy.split
def things(names: list[str]) -> Iterator[str]:
    """A task a thing."""
    yield from names


@buy.gather
def basket(names: list[str], bought: Iterable[str]) -> int:
    """All of a list."""
    return len(list(bought))


@stage(consumes="baskets")
def carry(count: int) -> None:
    """The last stage emits nothing."""
