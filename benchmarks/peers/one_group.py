"""One group: ours again, with all tasks in one group, each started when the one before is recorded."""

from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.fill import group_messages, send_all
from benchmarks.ground import Ground
from benchmarks.peer import Ready, on_sqs, worked_off
from benchmarks.peers.ours import WORKER

name = "one-group"


def missing() -> str | None:
    """Nothing: it is here."""
    return None


@contextmanager
def working(ground: Ground, tasks: int) -> Iterator[Ready]:
    """As ours, of an ordered stage and one entity."""
    send_all(ground, group_messages(tasks))
    yield on_sqs(ground, WORKER, ("sqs", "dynamodb"), worked_off(ground, tasks))
