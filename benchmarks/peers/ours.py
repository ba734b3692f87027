"""Ours: the worker of this project runs a stage; run, record, emit, delete. Task events are on."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.fill import send_all, stage_messages
from benchmarks.ground import Ground
from benchmarks.peer import Ready, on_sqs

name = "ours"


def missing() -> str | None:
    """Nothing: it is here."""
    return None


@contextmanager
def ready(ground: Ground, tasks: int) -> Iterator[Ready]:
    """Each task is the only one of a job, as a bridge would have made it."""
    send_all(ground, stage_messages(tasks))
    yield on_sqs(ground, command(), ("sqs", "dynamodb"))


def command() -> list[str]:
    """The worker: two children, task events on."""
    return [
        *(sys.executable, "-m", "celery", "-A", "pipeline", "worker"),
        *("-c", "2", "-E", "--loglevel", "INFO"),
    ]
