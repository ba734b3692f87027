"""Raw, wide: boto3 alone with as many batches in flight as the bridge has."""

from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.ground import Ground
from benchmarks.peer import Ready
from benchmarks.peers.raw import send_ready
from pipeline.bridge.delivery import SEND_THREADS

name = f"raw-{SEND_THREADS}"


def missing() -> str | None:
    """Return None: boto3 is installed."""
    return None


@contextmanager
def sending(ground: Ground, events: int) -> Iterator[Ready]:
    """Prepare the same as raw."""
    yield send_ready(ground, events, SEND_THREADS)
