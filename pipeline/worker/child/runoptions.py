"""The options of one run, which the parent sends to the child beside the task's message."""

from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """One run of one delivery."""

    #: 1 for the first attempt
    attempt: int
    #: the hard time limit in seconds; None in pools that have none
    limit: float | None
    #: the soft time limit in seconds; None for a run without one
    soft_limit: float | None = None
    #: the latest start: after it the lease may end too soon (seconds, ``boottime``)
    start_before: float
    #: (message id, receive count) to record as an attempt before the run, as it may kill the worker
    mark: tuple[str, int] | None = None
    #: the trace context that the run hands on
    traceparent: str | None = None


#: The entity of the event that the run in this thread leads to, where its stage gives one.
emitted_entity: ContextVar[str | None] = ContextVar("emitted_entity", default=None)

#: The options of the run in this thread. Not in Celery's request, whose content becomes headers of the tasks
#: that a task publishes.
running_options: ContextVar[RunOptions] = ContextVar("running_options")
