"""Ours: the worker of this project runs a stage (run, record, emit, delete); the bridge makes its tasks."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.fill import emit_all, middle_events, send_all, stage_messages
from benchmarks.ground import Ground
from benchmarks.peer import Ready, arrived, on_sqs, worked_off

name = "ours"

CELERY = (sys.executable, "-m", "celery", "-A", "pipeline")

#: Two children, task events on.
WORKER = (*CELERY, "worker", "-c", "2", "-E", "--loglevel", "INFO")

BRIDGE = (*CELERY, "bridge")


def missing() -> str | None:
    """Nothing: it is here."""
    return None


@contextmanager
def working(ground: Ground, tasks: int) -> Iterator[Ready]:
    """Each task is the only one of a job, as a bridge would have made it."""
    send_all(ground, stage_messages(tasks))
    yield on_sqs(ground, WORKER, ("sqs", "dynamodb"), worked_off(ground, tasks))


@contextmanager
def sending(ground: Ground, events: int) -> Iterator[Ready]:
    """The events are on Kafka, in the middle of their jobs, so that no job is to be opened."""
    emit_all(ground, middle_events(ground, events))
    yield on_sqs(ground, BRIDGE, ("sqs", "dynamodb"), arrived(ground))
