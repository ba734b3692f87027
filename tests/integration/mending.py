"""Stages for tests of dead letters: they fail until a file says that the cause is repaired.

Named in TASK_MODULES, loaded by nothing else.
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from celery import shared_task
from pydantic import BaseModel

from pipeline import current_task, stage


def is_mended(what: str) -> bool:
    """Whether the test mended it."""
    return (Path(os.environ["MENDED"]) / what).exists()


def work(what: str) -> str:
    """Fail until it is mended."""
    if not is_mended(what):
        raise ValueError(f"{what} is broken")
    return what


@stage(consumes="broken", emits="whole", retries=0)
def mend(what: str) -> str:
    """One task an event."""
    return work(what)


@stage(consumes="whole")
def polish(what: str) -> str:
    """The stage that follows."""
    return what


@stage(consumes="queued", ordered=True, retries=0)
def serve(what: str) -> None:
    """In the order of an entity's events."""
    work(what)


@stage(consumes="sets", emits="boxes", retries=0)
def fix(piece: str) -> int:
    """One piece of a set."""
    work(piece)
    return 1


@fix.split
def pieces(names: list[str]) -> Iterator[str]:
    """A task a piece."""
    yield from names


@fix.gather
def box(names: list[str], done: Iterable[int]) -> int:
    """All pieces."""
    return sum(done)


class Painted(BaseModel):
    """The result of a gather: the names that were painted, and those that are missing."""

    painted: list[str]
    missing: list[int]


@stage(consumes="fences", emits="painted", retries=0, tolerate=0.5)
def paint(board: str) -> str:
    """One board; a fence is a fence when half of them are painted."""
    return work(board)


@paint.split
def boards(names: list[str]) -> Iterator[str]:
    """A task a board."""
    yield from names


@paint.gather
def fence(names: list[str], painted: Iterable[str]) -> Painted:
    """All boards that could be painted."""
    task = current_task()
    assert task is not None
    return Painted(painted=list(painted), missing=list(task.missing))


@shared_task  # type: ignore[untyped-decorator]
def patch(what: str) -> None:
    """A plain task."""
    work(what)
