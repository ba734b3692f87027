"""Celery's consumer, where it would drop a message it cannot use."""

from typing import Any

import structlog
from celery.worker.consumer import Consumer as CeleryConsumer

from pipeline.checks import check_added_queue
from pipeline.errors import ConfigurationError, ServiceError
from pipeline.registry import REGISTRY
from pipeline.worker.outcome import Outcome, Returned, failed
from pipeline.worker.request import Request
from pipeline.worker.work import Work

log = structlog.get_logger(__name__)

#: How long a task that this worker does not know stays hidden (seconds): in a rolling deployment another
#: worker knows it. The redrive policy ends it if none does.
UNKNOWN_TASK_DELAY = 30
#: How late a task's events may be sent (seconds): soon enough for a person who looks on.
EVENTS_EVERY = 0.2


class Consumer(CeleryConsumer):  # type: ignore[misc]
    """Celery deletes what it does not know or cannot read; here it waits, or becomes a dead letter."""

    def on_send_event_buffered(self) -> None:
        """Nothing: task events are sent by ``flush_events``, many in one message.

        Celery sends them at the next turn of its event loop, which is once for every one or two: measured, a
        fifth of the loop's time at a thousand tasks a second.
        """

    def flush_events(self) -> None:
        """Send the task events that were gathered. Called from the event loop, every ``EVENTS_EVERY``."""
        if self.event_dispatcher:
            self.event_dispatcher.flush()

    def on_unknown_task(self, body: Any, message: Any, exc: Exception) -> None:
        """A task that no module of this worker defines: back to the queue for a while."""
        log.error("task.unknown", task=message.headers.get("task"), task_id=message.headers.get("id"))
        _settle(message, Returned(delay=UNKNOWN_TASK_DELAY))

    def on_unknown_message(self, body: Any, message: Any) -> None:
        """Not a Celery message in any version."""
        _settle(message, failed(ValueError("not a Celery message of a known version"), permanent=True))

    def on_invalid_task(self, body: Any, message: Any, exc: Exception) -> None:
        """A Celery message that Celery refuses, for example for its eta."""
        _settle(message, failed(exc, permanent=True))

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        """A body that kombu cannot decode."""
        _settle(message, failed(exc, permanent=True))

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


def _settle(message: Any, outcome: Outcome) -> None:
    lease = Request.settlement.intake.finish(message.delivery_tag)
    if lease is not None:
        Request.settlement.submit(Work(lease=lease, outcome=outcome))
