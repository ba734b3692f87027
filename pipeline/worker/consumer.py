"""Celery's consumer, which here keeps every message that it cannot use."""

import heapq
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

import structlog
from celery import signals
from celery.exceptions import TaskRevokedError
from celery.worker import state
from celery.worker.consumer import Consumer as CeleryConsumer
from kombu.utils.imports import symbol_by_name

from pipeline.author.registry import REGISTRY
from pipeline.control.taskcounts import ONE_IN
from pipeline.errors import ConfigurationError, InvalidInputError, ServiceError
from pipeline.infra.startchecks import check_added_queue
from pipeline.transport.lease import Lease
from pipeline.wire.marker import MARKER, Marker
from pipeline.worker.builtintasks import FOR_PLAIN_TASKS, refused_builtins
from pipeline.worker.child.outcome import Failed, Marked, Outcome, failed
from pipeline.worker.request import Request, request_class
from pipeline.worker.runtime import WorkerRuntime
from pipeline.worker.versions import other_version

log = structlog.get_logger(__name__)

#: The request of a task whose base is Celery's own ``Task``.
CELERYS_REQUEST = "celery.worker.request:Request"
#: How late a task's events may be sent (seconds): soon enough for a person who looks on.
EVENTS_EVERY = 0.2
#: The most task events in one message. Celery's 24 are those of eight tasks. A third of the events may have a
#: traceback of 8,000 characters, and a message has room for 1 MB.
EVENTS_TOGETHER = 60
#: Seconds between two removals of cancelled timers.
TIMERS_EVERY = 10.0


class Consumer(CeleryConsumer):  # type: ignore[misc]
    """Celery deletes what it does not know or cannot read; here it waits, or becomes a dead letter."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        signals.heartbeat_sent.connect(self.add_figures)
        self.app.backend.serve_event_loop()
        self._run_in_pool: Callable[[Request], None] = self.on_task_request
        self.on_task_request: Callable[[Request], None] = self._run

    @property
    def runtime(self) -> WorkerRuntime:
        """Return the runtime of this worker, made before the consumer starts."""
        return cast(WorkerRuntime, self.controller.runtime)

    def _run(self, request: Request) -> None:
        """Run a task, on a loop if it is async. Celery's pool has a semaphore, which counts its own runs."""
        loops = self.runtime.loops
        if loops is None or request.name not in loops.tasks:
            self._run_in_pool(request)
            return
        with suppress(TaskRevokedError):
            request.execute_using_pool(loops)

    def add_figures(self, **kwargs: Any) -> None:
        """Put the pool's size and the tasks' counters into the worker event that is about to be sent."""
        # A tuple of the set's own references at once: a pool of threads ends runs meanwhile.
        requests = [reference() for reference in tuple(state.active_requests.data)]
        counts = self.runtime.counts.fields(request.name for request in requests if request is not None)
        state.SOFTWARE_INFO.update(
            counts, pool_size=self.pool.num_processes, **{ONE_IN: self.runtime.sample.one_in}
        )

    def on_send_event_buffered(self) -> None:
        """Do nothing: ``flush_events`` sends task events, many in one message.

        Celery sends them at the next turn of its event loop, which is once for every one or two: measured, a
        fifth of the loop's time at a thousand tasks a second.
        """

    def flush_events(self) -> None:
        """Send the task events gathered so far. Called from the event loop, every ``EVENTS_EVERY``."""
        if self.event_dispatcher:
            self.event_dispatcher.flush()

    def update_strategies(self) -> None:
        """Give every task this project's request, whatever its base: Celery's would delete what fails."""
        bound = request_class(self.runtime)
        for name, task in self.app.tasks.items():
            if task.Request != CELERYS_REQUEST and not issubclass(symbol_by_name(task.Request), Request):
                log.warning("task.request_replaced", task=name, request=str(task.Request))
            task.Request = bound
        super().update_strategies()
        # They stay registered: Celery itself makes chains and groups with them.
        for name in refused_builtins(self.app.tasks):
            del self.strategies[name]

    def on_unknown_task(self, body: Any, message: Any, exc: Exception) -> None:
        """Give back a task that this worker does not define: another one may; else it is a dead letter."""
        name, task_id = message.headers.get("task"), message.headers.get("id")
        if name == MARKER:
            self._mark(message)
            return
        # A worker of another version may have plain tasks.
        if name in self.app.tasks and name not in FOR_PLAIN_TASKS:
            self._dead_letter(message, ValueError(f"nothing of this service sends Celery's own task {name}"))
            return
        log.warning("task.unknown", task=name, task_id=task_id)

        def outcome(lease: Lease) -> Outcome:
            decided = self._unknown(lease)
            if isinstance(decided, Failed):
                signals.task_unknown.send(sender=self, message=message, exc=exc, name=name, id=task_id)
            return decided

        self.runtime.end(message.delivery_tag, outcome, known=False)

    def on_unknown_message(self, body: Any, message: Any) -> None:
        """Dead-letter what is no Celery message of any version."""
        self._dead_letter(message, ValueError("not a Celery message of a known version"))

    def on_invalid_task(self, body: Any, message: Any, exc: Exception) -> None:
        """Dead-letter a message that Celery refuses, for example because of its eta."""
        self._dead_letter(message, exc)

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        """Dead-letter a message whose body kombu cannot decode."""
        self._dead_letter(message, exc)

    def add_task_queue(self, queue: str, *args: Any, **kwargs: Any) -> None:
        """Consume from one more queue, by remote control; log one that cannot be consumed from.

        It runs on the event loop, where an error would end the worker.
        """
        try:
            check_added_queue(self.app.pipeline.settings, REGISTRY, queue)
        except (ConfigurationError, ServiceError) as error:
            log.error("queue.not_added", queue=queue, error=str(error))
        else:
            super().add_task_queue(queue, *args, **kwargs)

    def _mark(self, message: Any) -> None:
        """Record a marker of the sweep: the messages before it in its group are gone (ADR 26)."""
        try:
            marker = Marker.read(message.headers)
        except InvalidInputError as error:
            self._dead_letter(message, error)
        else:
            self.runtime.end(message.delivery_tag, lambda _: Marked(marker=marker), known=False)

    def _unknown(self, lease: Lease) -> Outcome:
        settings = self.app.pipeline.settings
        modules = ",".join(settings.task_modules)
        why = f"no module in TASK_MODULES={modules} defines the task {lease.headers['task']!r}"
        return other_version(lease, settings, why)

    def _dead_letter(self, message: Any, error: Exception) -> None:
        signals.task_rejected.send(sender=self, message=message, exc=error)
        self.runtime.end(message.delivery_tag, lambda _: failed(error, permanent=True))


def drop_cancelled_timers(timer: Any) -> None:
    """Take the cancelled entries out of a kombu ``Timer``. Called on its own event loop.

    Each task with a time limit makes an entry, and kombu keeps it until the limit is over, though the task
    ended long before: at 1,000 tasks a second and limits of an hour, millions of them.
    """
    left = [entry for entry in timer._queue if not entry.entry.canceled]
    if len(left) < len(timer._queue):
        heapq.heapify(left)
        timer._queue[:] = left  # the loop's iterator holds the list itself
