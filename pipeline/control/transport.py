"""The transport ``fifo://`` with Celery's control plane: its three control exchanges over Kafka."""

import atexit
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import structlog
from kombu.transport import TRANSPORT_ALIASES, virtual

from pipeline.control.controlmessage import EXCHANGES, is_control_queue
from pipeline.control.controlplane import ControlPlane, close_control_plane, control_plane
from pipeline.settings import Settings
from pipeline.transport import kombutransport as fifo

log = structlog.get_logger(__name__)

# Sends the last events of a stopping worker, and the last command of a client.
atexit.register(close_control_plane)


#: The scheme of the broker's URL.
SCHEME = "fifo"

#: The most control messages that wait in a connection. A reader pauses meanwhile; Kafka holds the rest.
LIMIT = 1_000


class MessageBuffer:
    """Control messages of a connection, on their way from readers' threads to the connection's owner."""

    def __init__(self, on_arrival: Callable[[], None]) -> None:
        #: called, from a reader's thread, when there is something to take
        self._on_arrival = on_arrival
        self._messages: deque[tuple[str, dict[str, Any]]] = deque()
        self._changed = threading.Condition()
        self._closed: set[str] = set()

    def put(self, queue: str, message: dict[str, Any]) -> None:
        """Add a message; wait while the buffer is full. Drop it if its queue is closed."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._messages) < LIMIT or queue in self._closed)
            if queue in self._closed:
                return
            self._messages.append((queue, message))
        self._on_arrival()

    def take(self) -> tuple[str, dict[str, Any]] | None:
        """Return the oldest message with its queue; None if there is none."""
        with self._changed:
            if not self._messages:
                return None
            self._changed.notify_all()
            return self._messages.popleft()

    def open(self, queue: str) -> None:
        """Accept messages for ``queue`` from now on."""
        with self._changed:
            self._closed.discard(queue)

    def close(self, queue: str) -> None:
        """Drop the messages that wait for ``queue``, and those still to come."""
        with self._changed:
            self._closed.add(queue)
            kept = [entry for entry in self._messages if entry[0] != queue]
            self._messages.clear()
            self._messages.extend(kept)
            self._changed.notify_all()


class Channel(fifo.Channel):
    """A channel that sends the control plane's messages over Kafka, and all others over SQS."""

    def __init__(self, connection: Any, **kwargs: Any) -> None:
        super().__init__(connection, **kwargs)
        #: the control queues that are subscribed, with their exchange
        self._subscribed: dict[str, str] = {}

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
        """Bind a queue; subscribe a control queue."""
        super().queue_bind(queue, exchange, routing_key, *args, **kwargs)
        if exchange in EXCHANGES and queue not in self._subscribed:
            self.connection.buffer.open(queue)
            self.connection.control.subscribe(exchange, queue, routing_key, self.connection.buffer)
            self._subscribed[queue] = exchange

    def queue_delete(self, queue: str, *args: Any, **kwargs: Any) -> None:
        """Delete a queue; unsubscribe a control queue."""
        self._unsubscribe(queue)
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
        """Close the channel, and unsubscribe its control queues."""
        for queue in list(self._subscribed):
            self._unsubscribe(queue)
        super().close()

    def _unsubscribe(self, queue: str) -> None:
        exchange = self._subscribed.pop(queue, None)
        if exchange is not None:
            self.connection.control.unsubscribe(exchange, queue, self.connection.buffer)
            self.connection.buffer.close(queue)

    def _size(self, queue: str) -> int:
        return 0 if is_control_queue(queue) else super()._size(queue)


class Transport(fifo.Transport):
    """One connection, with a buffer for its control messages."""

    Channel = Channel
    implements = fifo.Transport.implements.extend(exchange_type=frozenset(["direct", "topic", "fanout"]))

    def __init__(self, client: Any, **kwargs: Any) -> None:
        super().__init__(client, **kwargs)
        self.buffer = MessageBuffer(on_arrival=lambda: self._wakeup.set())
        self._takes_tasks = False

    @property
    def control(self) -> ControlPlane:
        """Return the control plane of this process."""
        return control_plane(self._settings())

    def consume(self, queue: str) -> None:
        """Receive tasks from ``queue``."""
        self._takes_tasks = True
        super().consume(queue)

    def drain_events(self, connection: Any, timeout: float | None = None) -> None:
        """Deliver one control message, or the tasks that are ready; ``TimeoutError`` after ``timeout`` s.

        Only one control message, because Celery counts the replies that it waits for by these calls.
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
        """Deliver on the worker's event loop: commands before tasks."""
        while self._deliver_control():
            pass
        super()._on_wakeup()

    def _deliver_control(self) -> bool:
        """Deliver the oldest control message whose queue is still consumed; False if there was none."""
        while entry := self.buffer.take():
            queue, payload = entry
            if (callback := self._callbacks.get(queue)) is not None:
                callback(payload)
                return True
        return False


def configure(settings: Callable[[], Settings]) -> None:
    """Register ``fifo://`` with kombu. ``settings`` is called when a connection first needs them."""
    TRANSPORT_ALIASES[SCHEME] = f"{Transport.__module__}:{Transport.__name__}"
    fifo.Transport.settings = staticmethod(settings)
