"""Reports: how a run ended, as a child tells it to its parent, which records it.

Celery writes a result in the child while the message is still held. Here it travels with the outcome, and
settlement writes it before it deletes the message: a result is never missing for a message that is gone.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

#: No slots, as in the outcomes that carry it (``pipeline.worker.child.outcome``).


@dataclass(frozen=True, kw_only=True)
class Report:
    """The end of one run."""

    #: Celery's name of the state.
    state: str
    #: JSON of Celery's meta of the task.
    text: str
    #: How long the result is kept (seconds); None: for ever.
    keep_seconds: float | None
    #: Whether the result is kept at all. A part of a chord reports even if its own result is not.
    kept: bool


class RunningTask:
    """The task that runs in this context, and what it reported."""

    def __init__(self, task_id: str) -> None:
        self.task_id = task_id
        self._report: Report | None = None

    def tell(self, report: Report) -> None:
        """Keep the report of the run; a later one replaces it, as where a hook fails after a success."""
        self._report = report

    def told(self, state: str) -> Report | None:
        """Return the report of the run, if it told of this state."""
        return self._report if self._report is not None and self._report.state == state else None


#: The run in this thread or coroutine; None outside of a run.
_running: ContextVar[RunningTask | None] = ContextVar("running_task", default=None)


@contextmanager
def reporting(task_id: str) -> Iterator[RunningTask]:
    """Let the backend report how this task ends, instead of writing it."""
    running = RunningTask(task_id)
    token = _running.set(running)
    try:
        yield running
    finally:
        _running.reset(token)


def running_task(task_id: str) -> RunningTask | None:
    """Return the run of this context if it is that of this task: it may end others, or run them eagerly."""
    running = _running.get()
    return running if running is not None and running.task_id == task_id else None
