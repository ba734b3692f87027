"""Celery's consumer, where it would drop a message it cannot use."""

import time
from typing import Any

import structlog
from celery.signals import heartbeat_sent
from celery.worker import state
from celery.worker.consumer import Consumer as CeleryConsumer
from kombu.utils.imports import symbol_by_name

from pipeline.checks import check_added_queue
from pipeline.errors import ConfigurationError, ServiceError
from pipeline.registry import REGISTRY
from pipeline.transport.lease import Lease
from pipeline.worker.outcome import Failed, Outcome, Returned, failed
from pipeline.worker.request import Request
from pipeline.worker.unrun import Unrun
from pipeline.worker.work import Work

log = structlog.get_logger(__name__)

#: How often a task that no worker knows is received within UNKNOWN_TASK_SECONDS: fewer times than any redrive
#: policy that a start accepts, so that it is this worker who says why it is a dead letter.
UNKNOWN_TASK_RECEIVES = 20
#: What a task has whose base is Celery's own ``Task``.
CELERYS_REQUEST = "celery.worker.request:Request"
#: How late a task's events may be sent (seconds): soon enough for a person who looks on.
EVENTS_EVERY = 0.2


class Consumer(CeleryConsumer):  # type: ignore[misc]
    """Celery deletes what it does not know or cannot read; here it waits, or becomes a dead letter."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        heartbeat_sent.connect(self.tell_pool_size)

    def tell_pool_size(self, **kwargs: Any) -> None:
        """Put the pool's size into the sign of life that is about to be sent: nobody has to ask for it."""
        state.SOFTWARE_INFO["pool_size"] = self.pool.num_processes

    def on_send_event_buffered(self) -> None:
        """Nothing: task events are sent by ``flush_events``, many in one message.

        Celery sends them at the next turn of its event loop, which is once for every one or two: measured, a
        fifth of the loop's time at a thousand tasks a second.
        """

    def flush_events(self) -> None:
        """Send the task events that were gathered. Called from the event loop, every ``EVENTS_EVERY``."""
        if self.event_dispatcher:
            self.event_dispatcher.flush()

    def update_strategies(self) -> None:
        """Every task gets this project's request, whatever its base: Celery's would delete what fails."""
        for name, task in self.app.tasks.items():
            if not issubclass(symbol_by_name(task.Request), Request):
                if task.Request != CELERYS_REQUEST:
                    log.warning("task.request_replaced", task=name, request=str(task.Request))
                task.Request = Request
        super().update_strategies()

    def on_unknown_task(self, body: Any, message: Any, exc: Exception) -> None:
        """A task that no module of this worker defines: another worker's, or in the end a dead letter."""
        log.warning("task.unknown", task=message.headers.get("task"), task_id=message.headers.get("id"))
        lease = Request.settlement.intake.finish(message.delivery_tag)
        if lease is not None:
            self._submit(lease, self._unknown(lease), known=False)

    def on_unknown_message(self, body: Any, message: Any) -> None:
        """Not a Celery message in any version."""
        self._give_up(message, ValueError("not a Celery message of a known version"))

    def on_invalid_task(self, body: Any, message: Any, exc: Exception) -> None:
        """A Celery message that Celery refuses, for example for its eta."""
        self._give_up(message, exc)

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        """A body that kombu cannot decode."""
        self._give_up(message, exc)

    def add_task_queue(self, queue: str, *args: Any, **kwargs: Any) -> None:
        """Consume from one more queue, by remote control; one that cannot be is left out.

        It runs on the event loop, where an error would end the worker.
        """
        try:
            check_added_queue(self.app.settings, REGISTRY, queue)
        except (ConfigurationError, ServiceError) as error:
            log.error("queue.not_added", queue=queue, error=str(error))
        else:
            super().add_task_queue(queue, *args, **kwargs)

    def _unknown(self, lease: Lease) -> Outcome:
        """While a rolling deployment may be going on, a worker of the newer version may know the task.

        By when it was sent: before the deployment began nobody sent it.
        """
        settings = self.app.settings
        if time.time() < lease.message.sent_at + settings.unknown_task_seconds:
            return Returned(delay=settings.unknown_task_seconds / UNKNOWN_TASK_RECEIVES)
        return Failed(
            error="celery.exceptions.NotRegistered",
            message=f"no module in TASK_MODULES={','.join(settings.task_modules)} defines the task "
            f"{lease.payload['headers']['task']!r}, and no other worker took it within UNKNOWN_TASK_SECONDS="
            f"{settings.unknown_task_seconds:g}: deploy one that has it, then redrive",
            permanent=True,
        )

    def _give_up(self, message: Any, error: Exception) -> None:
        lease = Request.settlement.intake.finish(message.delivery_tag)
        if lease is not None:
            self._submit(lease, failed(error, permanent=True))

    def _submit(self, lease: Lease, outcome: Outcome, *, known: bool = True) -> None:
        events = self.event_dispatcher
        unrun = Unrun(lease, events.send if events else None, known=known)
        Request.settlement.submit(Work(lease=lease, outcome=outcome, request=unrun))
