"""The stage of the latency benchmark. The only one that its bridge knows, so that nothing follows its tasks."""

import time

from pipeline import stage


@stage(consumes="bench-moments", emits="bench-waits")
def wait(moment: float) -> float:
    """How many seconds ago its event was made: what a task waits until it starts."""
    return time.time() - moment
