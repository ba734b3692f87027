"""The stage of the latency benchmark, in a module of its own, so that its bridge loads no other."""

import time

from pipeline import stage


@stage(consumes="bench-moments", emits="bench-waits")
def wait(moment: float) -> float:
    """Return how many seconds ago its event was made: the wait of its task for its start."""
    return time.time() - moment
