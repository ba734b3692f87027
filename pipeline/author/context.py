"""What a running function can ask about the task it runs for."""

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
    #: What the event happened to: its Kafka key.
    entity_id: str
    #: Which part of a split this is; None for a run, a split and a gather.
    part: Part | None
    #: 1 for the first attempt.
    attempt: int
    #: Where on Kafka the event was read.
    topic: str
    partition: int
    offset: int
    #: When the run is killed, in seconds since 1970; None without a time limit.
    deadline: float | None
    #: Of a gather: the ordinals of the parts that failed and were tolerated, in order; their results are not
    #: among those it is given.
    missing: tuple[int, ...] = ()
    #: The W3C trace it belongs to; None without one.
    traceparent: str | None = None


_current: ContextVar[CurrentTask | None] = ContextVar("current_task", default=None)


def current_task() -> CurrentTask | None:
    """The task that this code runs for; None outside of one, as in a unit test that calls a stage."""
    return _current.get()


@contextmanager
def running(task: CurrentTask) -> Iterator[None]:
    """Let ``current_task`` tell ``task`` in this block. For the worker, and for tests of user code."""
    token = _current.set(task)
    try:
        yield
    finally:
        _current.reset(token)
