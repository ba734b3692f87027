"""One group: ours with all tasks in one group, each started when the one before has run well."""

from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.fill import group_messages, send_all
from benchmarks.ground import Ground
from benchmarks.peer import Ready, on_sqs, worked_off
from benchmarks.peers.ours import WORKER

name = "one-group"


def missing() -> str | None:
    """Return None: it needs nothing else."""
    return None


@contextmanager
def working(ground: Ground, tasks: int) -> Iterator[Ready]:
    """Prepare tasks of an ordered stage and one entity."""
    send_all(ground.queue, group_messages(tasks))
    yield on_sqs(ground, WORKER, ("sqs", "dynamodb"), worked_off(ground, tasks))
