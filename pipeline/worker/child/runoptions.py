"""What the parent tells the child about one run, beside the task's own message."""

from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class RunOptions:
    """One run of one delivery."""

    #: 1 for the first attempt
    attempt: int
    #: the hard time limit in seconds; None in pools that have none
    limit: float | None
    #: from when on the message is not ours for long enough to start (seconds, ``boottime``)
    start_before: float
    #: (message id, receive count) to record as an attempt before the run, as it may kill the worker
    mark: tuple[str, int] | None = None
    #: what the run hands on of its trace
    traceparent: str | None = None


#: The options of the run that this thread is in. Not in Celery's request: what is there goes out as headers
#: of what a task publishes.
running_options: ContextVar[RunOptions] = ContextVar("running_options")
