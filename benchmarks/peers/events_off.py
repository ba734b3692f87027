"""Events off: ours again without task events, so that Flower would show nothing. What they cost."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from benchmarks.ground import Ground
from benchmarks.peer import Ready
from benchmarks.peers import ours

name = "events-off"

WORKER = (
    sys.executable,
    "-m",
    "celery",
    "-A",
    "benchmarks.eventless",
    "worker",
    "-c",
    "2",
    "--loglevel",
    "INFO",
)


def missing() -> str | None:
    """Nothing: it is here."""
    return None


@contextmanager
def working(ground: Ground, tasks: int) -> Iterator[Ready]:
    """The same tasks."""
    with ours.working(ground, tasks) as ready:
        yield replace(ready, command=WORKER)
