"""Events off: ours without task events, which shows their cost. Flower would show nothing."""

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
    """Return None: it needs nothing else."""
    return None


@contextmanager
def working(ground: Ground, tasks: int) -> Iterator[Ready]:
    """Prepare the same tasks."""
    with ours.working(ground, tasks) as ready:
        yield replace(ready, command=WORKER)
