"""Ours: the worker of this project runs a stage (run, record, emit, delete); the bridge makes its tasks."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.fill import emit_all, first_event, middle_events, send_all, stage_messages
from benchmarks.ground import Ground
from benchmarks.peer import Flow, Ready, Shape, on_sqs, queue_depth, worked_off

name = "ours"

CELERY = (sys.executable, "-m", "celery", "-A", "pipeline")

#: Two children, task events on.
WORKER = (*CELERY, "worker", "-c", "2", "-E", "--loglevel", "INFO")

BRIDGE = (*CELERY, "bridge")


def missing() -> str | None:
    """Return None: it needs nothing else."""
    return None


@contextmanager
def working(ground: Ground, tasks: int) -> Iterator[Ready]:
    """Prepare tasks as a bridge makes them, each of its own job."""
    send_all(ground.queue, stage_messages(tasks))
    yield on_sqs(ground, WORKER, ("sqs", "dynamodb"), worked_off(ground, tasks))


@contextmanager
def sending(ground: Ground, events: int) -> Iterator[Ready]:
    """Put events on Kafka, in the middle of their jobs, so that no job is opened."""
    emit_all(ground, middle_events(ground, events))
    yield on_sqs(ground, BRIDGE, ("sqs", "dynamodb"), queue_depth(ground))


@contextmanager
def flowing(ground: Ground, shape: Shape) -> Iterator[Flow]:
    """Start each job with an event on Kafka; a bridge and a worker run it."""

    def submit(jobs: int) -> None:
        emit_all(ground, [first_event(shape.first.consumes, b"%d" % number) for number in range(jobs)])

    yield Flow(
        commands={"worker": WORKER, "bridge": BRIDGE},
        servers=ground.servers,
        environment=ground.environment_through,
        submit=submit,
        task_done=(b'"task.done"',),
        job_done=(b'"task.done"', b'"stage": "%s"' % shape.last.name.encode()),
    )
