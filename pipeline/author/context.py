"""The context of a running function: the task that it runs for."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Part:
    """One of the parts of a split."""

    #: From 0.
    ordinal: int
    total: int


@dataclass(frozen=True, kw_only=True)
class CurrentTask:
    """The task that is running."""

    job_id: str
    task_id: str
    #: Name of the stage.
    stage: str
    #: The entity, which is the event's Kafka key.
    entity_id: str
    #: The part of a split; None for a run, a split and a gather.
    part: Part | None
    #: 1 for the first attempt.
    attempt: int
    #: The position on Kafka where the event was read.
    topic: str
    partition: int
    offset: int
    #: The time at which the run is killed, in seconds since 1970; None without a time limit.
    deadline: float | None
    #: In a gather: the ordinals of the parts that failed and were tolerated, in order. They have no result.
    missing: tuple[int, ...] = ()
    #: The W3C trace it belongs to; None without one.
    traceparent: str | None = None


_current: ContextVar[CurrentTask | None] = ContextVar("current_task", default=None)


def current_task() -> CurrentTask | None:
    """Return the task that the calling code runs for; None outside of one, as in a unit test of a stage."""
    return _current.get()


@contextmanager
def running(task: CurrentTask) -> Iterator[None]:
    """Let ``current_task`` return ``task`` in this block. For the worker, and for tests of user code."""
    token = _current.set(task)
    try:
        yield
    finally:
        _current.reset(token)
