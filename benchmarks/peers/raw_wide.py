"""Raw, wide: boto3 alone with as many batches in flight as the bridge has."""

from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.ground import Ground
from benchmarks.peer import Ready
from benchmarks.peers.raw import send_ready
from consumers.senders import THREADS

name = f"raw-{THREADS}"


def missing() -> str | None:
    """Nothing: boto3 is here."""
    return None


@contextmanager
def sending(ground: Ground, events: int) -> Iterator[Ready]:
    """As raw."""
    yield send_ready(ground, events, THREADS)
