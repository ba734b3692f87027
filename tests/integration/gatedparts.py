"""A job of eight tasks whose parts run when the test lets them, so that each is settled alone."""

import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from pipeline import stage

PARTS = 4

#: Seconds that a part waits for its gate.
TIMEOUT = 60.0


@stage(consumes="gated-folders", emits="gated-begun")
def gated_begin(folder: str) -> str:
    """Run as the first stage."""
    return folder


@stage(consumes="gated-begun", emits="gated-joined")
def gated_part(gate: str) -> int:
    """Say that it runs, and wait until it may end."""
    Path(f"{gate}.runs").touch()
    deadline = time.monotonic() + TIMEOUT
    while not Path(f"{gate}.open").exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"nobody opened {gate}")
        time.sleep(0.01)
    return 1


@gated_part.split
def gates(folder: str) -> Iterator[str]:
    """Make a part for each gate."""
    return (f"{folder}/{number}" for number in range(PARTS))


@gated_part.gather
def gated_join(_folder: str, ones: Iterable[int]) -> int:
    """Combine the results."""
    return sum(ones)


@stage(consumes="gated-joined")
def gated_finish(_total: int) -> None:
    """Run as the last stage."""
