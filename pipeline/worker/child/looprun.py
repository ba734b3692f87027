"""A run in a loop child: a thread of its own traces it, and its coroutines wait on the loop of all runs."""

import asyncio
import threading
from collections.abc import Coroutine, Mapping
from concurrent.futures import Future
from contextvars import ContextVar
from functools import partial
from typing import Any, TypeVar

import structlog
from celery import _state
from celery.exceptions import SoftTimeLimitExceeded, TimeLimitExceeded

from pipeline.author.awaiting import waiter
from pipeline.worker.child import trace
from pipeline.worker.child.loopframes import Run
from pipeline.worker.child.outcome import Failed, Outcome, Returned, failed

log = structlog.get_logger(__name__)

T = TypeVar("T")

#: The run that the code belongs to, in its thread and on the loop.
_current: ContextVar["LoopRun | None"] = ContextVar("current_run", default=None)


class LoopRun:
    """One run. Its limits cancel what it awaits; nothing can end code that awaits nothing."""

    def __init__(self, loop: asyncio.AbstractEventLoop, run: Run) -> None:
        self._loop = loop
        self._run = run
        self._tasks: set[asyncio.Task[Any]] = set()
        #: raised in the run when its tasks are cancelled
        self._interruption: BaseException | None = None
        self._is_called_off = False
        self._timers: list[asyncio.TimerHandle] = []

    # ─── in the thread of the run ───

    def trace(self) -> Outcome:
        """Run the task; return its outcome. Call it in a context of its own."""
        _current.set(self)
        waiter.set(self._wait)
        self._loop.call_soon_threadsafe(self._set_limits)
        try:
            outcome = trace.run(*self._run.arguments)
        except BaseException as error:  # noqa: BLE001 - what asks to end the process asks it of one run only
            outcome = failed(error)
        finally:
            self._loop.call_soon_threadsafe(self._drop_limits)
        return Returned() if self._is_called_off and isinstance(outcome, Failed) else outcome

    def _wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        done: Future[T] = Future()
        # It takes the context of this thread along.
        self._loop.call_soon_threadsafe(self._start, coroutine, done)
        return done.result()

    # ─── on the loop ───

    def call_off(self) -> None:
        """Cancel it: whatever it fails with does not count."""
        self._is_called_off = True
        self._interrupt(asyncio.CancelledError())

    def _set_limits(self) -> None:
        options = self._run.options
        if options.soft_limit is not None:
            self._timers.append(self._loop.call_later(options.soft_limit, self._end_softly))
        if options.limit is not None:
            limit = TimeLimitExceeded(options.limit)
            self._timers.append(self._loop.call_later(options.limit, self._interrupt, limit))

    def _drop_limits(self) -> None:
        for timer in self._timers:
            timer.cancel()

    def _end_softly(self) -> None:
        seconds = self._run.options.soft_limit
        name, task_id, *_ = self._run.arguments
        log.warning("task.soft_time_limit", task=name, task_id=task_id, seconds=seconds)
        self._interrupt(SoftTimeLimitExceeded())

    def _interrupt(self, error: BaseException) -> None:
        self._interruption = error
        for task in self._tasks:
            task.cancel()

    def _start(self, coroutine: Coroutine[Any, Any, Any], done: Future[Any]) -> None:
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(partial(self._hand_over, done))
        if self._interruption is not None:  # it came while the run awaited nothing
            task.cancel()

    def _hand_over(self, done: Future[Any], task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        interruption, self._interruption = self._interruption, None
        if task.cancelled():
            done.set_exception(interruption or asyncio.CancelledError())
        elif (error := task.exception()) is not None:
            done.set_exception(error)
        else:
            done.set_result(task.result())


def keep_stacks_by_run(tasks: Mapping[str, Any]) -> None:
    """Let Celery's stacks of running tasks and their requests belong to a run, wherever its code is.

    They belong to a thread, and all coroutines are in that of the loop.
    """
    for stack in (_state._task_stack, *(task.request_stack for task in tasks.values())):
        stack.__ident_func__ = _ident


def _ident() -> Any:
    return _current.get() or threading.get_ident()
