"""The stage of the latency benchmark, in a module of its own: its bridge knows no other."""

import time

from pipeline import stage


@stage(consumes="bench-moments", emits="bench-waits")
def wait(moment: float) -> float:
    """How many seconds ago its event was made: what a task waits until it starts."""
    return time.time() - moment
