"""The stage of the entity benchmark: in order, on a queue of its own that no worker takes from."""

from pipeline import stage

QUEUE = "bench-entity.fifo"


@stage(consumes="bench-entity", emits="bench-entity-done", ordered=True, queue=QUEUE)
def follow(number: int) -> int:
    """Run in the order of an entity's events."""
    return number


@stage(consumes="bench-entity-done")
def followed(_number: int) -> None:
    """Follow ``follow``, so that it does not end its path."""
