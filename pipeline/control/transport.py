"""The transport ``fifo://`` with Celery's control plane: its three control exchanges over Kafka."""

import atexit
import time
from collections.abc import Callable
from typing import Any

import structlog
from kombu.transport import virtual

from pipeline.transport import fifo
from pipeline.transport.controlmessage import EXCHANGES, is_control_queue
from pipeline.transport.inbox import Inbox
from pipeline.transport.plane import ControlPlane, close_control_plane, control_plane

log = structlog.get_logger(__name__)

# A stopping worker's last words, and a client's last command.
atexit.register(close_control_plane)


class Channel(fifo.Channel):
    """A channel on which what concerns the control plane goes over Kafka, and all else over SQS."""

    def __init__(self, connection: Any, **kwargs: Any) -> None:
        super().__init__(connection, **kwargs)
        #: the control queues it listens on, with their exchange
        self._listening: dict[str, str] = {}

    def basic_publish(self, message: dict[str, Any], exchange: str, routing_key: str, **kwargs: Any) -> None:
        """Publish a message."""
        if exchange not in EXCHANGES:
            super().basic_publish(message, exchange, routing_key, **kwargs)
            return
        self._inplace_augment_message(message, exchange, routing_key)
        self.connection.control.publish(exchange, routing_key, message)

    def queue_bind(
        self, queue: str, exchange: str | None = None, routing_key: str = "", *args: Any, **kwargs: Any
    ) -> None:
        """Bind a queue; a control queue listens from now on."""
        super().queue_bind(queue, exchange, routing_key, *args, **kwargs)
        if exchange in EXCHANGES and queue not in self._listening:
            self.connection.inbox.open(queue)
            self.connection.control.subscribe(exchange, queue, routing_key, self.connection.inbox)
            self._listening[queue] = exchange

    def queue_delete(self, queue: str, *args: Any, **kwargs: Any) -> None:
        """Delete a queue; a control queue listens no more."""
        self._hang_up(queue)
        super().queue_delete(queue, *args, **kwargs)

    def basic_consume(
        self, queue: str, no_ack: bool, callback: Callable[..., Any], consumer_tag: str, **kwargs: Any
    ) -> None:
        """Start receiving from ``queue``."""
        if is_control_queue(queue):
            virtual.Channel.basic_consume(self, queue, no_ack, callback, consumer_tag, **kwargs)
        else:
            super().basic_consume(queue, no_ack, callback, consumer_tag, **kwargs)

    def basic_cancel(self, consumer_tag: str) -> None:
        """Stop receiving."""
        if is_control_queue(self._tag_to_queue.get(consumer_tag, "")):
            virtual.Channel.basic_cancel(self, consumer_tag)
        else:
            super().basic_cancel(consumer_tag)

    def close(self) -> None:
        """Close; its control queues are gone with it."""
        for queue in list(self._listening):
            self._hang_up(queue)
        super().close()

    def _hang_up(self, queue: str) -> None:
        exchange = self._listening.pop(queue, None)
        if exchange is not None:
            self.connection.control.unsubscribe(exchange, queue, self.connection.inbox)
            self.connection.inbox.close(queue)

    def _size(self, queue: str) -> int:
        return 0 if is_control_queue(queue) else super()._size(queue)


class Transport(fifo.Transport):
    """One connection, with an inbox for what the control plane brings it."""

    Channel = Channel
    implements = fifo.Transport.implements.extend(exchange_type=frozenset(["direct", "topic", "fanout"]))

    def __init__(self, client: Any, **kwargs: Any) -> None:
        super().__init__(client, **kwargs)
        self.inbox = Inbox(on_arrival=lambda: self._wakeup.set())
        self._takes_tasks = False

    @property
    def control(self) -> ControlPlane:
        """The control plane of this process."""
        return control_plane(self._settings())

    def consume(self, queue: str) -> None:
        """Receive tasks from ``queue``."""
        self._takes_tasks = True
        super().consume(queue)

    def drain_events(self, connection: Any, timeout: float | None = None) -> None:
        """Deliver one control message, or the tasks that are ready; ``TimeoutError`` after ``timeout`` s.

        One, because Celery counts the replies it waits for by the calls of this.
        """
        end = None if timeout is None else time.monotonic() + timeout
        while not self._deliver_control():
            left = None if end is None else max(0.0, end - time.monotonic())
            if self._takes_tasks:
                super().drain_events(connection, left)
                return
            if not self._wakeup.wait(left):
                raise TimeoutError
            self._wakeup.clear()

    def _on_wakeup(self) -> None:
        """On the worker's event loop: commands go before tasks."""
        while self._deliver_control():
            pass
        super()._on_wakeup()

    def _deliver_control(self) -> bool:
        """Deliver the oldest control message that somebody still waits for; whether there was one."""
        while entry := self.inbox.take():
            queue, payload = entry
            if (callback := self._callbacks.get(queue)) is not None:
                callback(payload)
                return True
        return False
