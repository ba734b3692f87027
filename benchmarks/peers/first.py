"""First: the bridge of ours with the first events of jobs, each of which it opens in DynamoDB."""

from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.fill import emit_all, first_event
from benchmarks.ground import Ground
from benchmarks.peer import Ready, on_sqs, queue_depth
from benchmarks.peers.ours import BRIDGE
from benchmarks.stages import double

name = "first"


def missing() -> str | None:
    """Return None: it needs nothing else."""
    return None


@contextmanager
def sending(ground: Ground, events: int) -> Iterator[Ready]:
    """Put events on Kafka that begin jobs."""
    emit_all(ground, [first_event(double.consumes, b"%d" % number) for number in range(events)])
    yield on_sqs(ground, BRIDGE, ("sqs", "dynamodb"), queue_depth(ground))
