"""Two: two bridges of ours that share the partitions."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from benchmarks.ground import Ground
from benchmarks.peer import Ready
from benchmarks.peers import ours

name = "ours-2"


def missing() -> str | None:
    """Nothing: it is here."""
    return None


@contextmanager
def sending(ground: Ground, events: int) -> Iterator[Ready]:
    """The same events, and one bridge more."""
    with ours.sending(ground, events) as ready:
        yield replace(ready, copies=2)
