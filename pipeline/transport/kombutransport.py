"""The kombu transport ``fifo://``: how Celery consumes from and publishes to SQS FIFO queues."""

import threading
from collections.abc import Callable
from typing import Any, ClassVar

import structlog
from kombu.transport import virtual
from kombu.transport.virtual.base import queue_declare_ok_t
from vine import promise

from pipeline.errors import MessageRefusedError, ServiceError
from pipeline.payloads import Payloads, shrinking
from pipeline.settings import Settings
from pipeline.sqs import SqsQueue, sqs_client
from pipeline.transport import republishing  # noqa: F401 - connects its signal
from pipeline.transport.envelope import PARSED
from pipeline.transport.intake import HELD_LIMIT
from pipeline.transport.lease import Lease
from pipeline.transport.publishing import gather, is_for_later, seconds_until, to_sqs
from pipeline.transport.source import TaskSource, task_source
from pipeline.transport.wakeup import WakeupPipe

log = structlog.get_logger(__name__)

#: The most messages that one turn of the event loop delivers.
ROUND = 100
#: How long a message whose delivery raised stays hidden (seconds).
AFTER_DELIVERY_ERROR = 30


class QoS(virtual.QoS):  # type: ignore[misc]
    """Keeps no list of delivered messages: the intake does, for longer than a channel lives."""

    def append(self, message: Any, delivery_tag: str) -> None:
        """Do nothing."""

    def ack(self, delivery_tag: str) -> None:
        """Do nothing."""


class Message(virtual.Message):  # type: ignore[misc]
    """A message whose body was parsed when it was received."""

    def __init__(self, payload: dict[str, Any], channel: Any = None, **kwargs: Any) -> None:
        super().__init__(payload, channel, **kwargs)
        # Not kombu's decoder, which refuses data that looks like one of its own types.
        self._decoded_cache = payload.get(PARSED)


class Channel(virtual.Channel):  # type: ignore[misc]
    """One channel. Held messages belong to the process, so a closing channel loses none."""

    QoS = QoS
    Message = Message
    # kombu would send copies of what is unacknowledged; the originals are still in SQS.
    do_restore = False
    # SQS carries text and the body is JSON: base64 would only make it larger.
    body_encoding = None

    def basic_consume(
        self, queue: str, no_ack: bool, callback: Callable[..., Any], consumer_tag: str, **kwargs: Any
    ) -> None:
        """Start receiving from ``queue``."""
        super().basic_consume(queue, no_ack, callback, consumer_tag, **kwargs)
        self.connection.consume(queue)

    def basic_cancel(self, consumer_tag: str) -> None:
        """Stop receiving; give back what was not started."""
        queue = self._tag_to_queue.get(consumer_tag)
        super().basic_cancel(consumer_tag)
        if queue is not None:
            self.connection.source.cancel(queue)

    def basic_qos(self, prefetch_size: int = 0, prefetch_count: int = 0, apply_global: bool = False) -> None:
        """Set how many messages the worker takes at once; 0: as many as are held."""
        super().basic_qos(prefetch_size, prefetch_count, apply_global)
        self.connection.source.set_slots(prefetch_count or HELD_LIMIT)

    def basic_ack(self, delivery_tag: str, multiple: bool = False) -> None:
        """Delete the message. Settlement deletes tasks; they do not come here."""
        source = self.connection.source
        if (lease := source.intake.finish(delivery_tag)) is not None:
            source.disposal.delete([lease])

    def basic_reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Give the message back: at once, or without ``requeue`` after a while.

        It is never dropped: the redrive policy moves one that nobody can use to the dead-letter queue.
        """
        source = self.connection.source
        if (lease := source.intake.finish(delivery_tag)) is not None:
            source.disposal.give_back(lease, 0 if requeue else AFTER_DELIVERY_ERROR)

    def queue_declare(self, queue: str, passive: bool = False, **_: Any) -> queue_declare_ok_t:
        """Return the queue's size if ``passive``, else 0: only provisioning makes queues."""
        return queue_declare_ok_t(queue, self._size(queue) if passive else 0, 0)

    # ─── Publishing ───

    def _put(self, queue: str, message: dict[str, Any], **_: Any) -> None:
        outgoing = to_sqs(queue, message)
        if gather(queue, outgoing):
            return
        (error,) = self.connection.queue(queue).send([outgoing])
        if error is not None:
            raise error

    def _lookup(self, exchange: str, routing_key: str, default: str | None = None) -> list[str]:
        """Return the queues a message goes to; raise where kombu would drop it because there are none."""
        if queues := super()._lookup(exchange, routing_key, default):
            return list(queues)
        raise MessageRefusedError(
            f"Could not publish to exchange {exchange!r} with routing key {routing_key!r}: no queue is bound "
            'to it. There are no exchanges here: name the queue, queue="..."'
        )

    def _size(self, queue: str) -> int:
        return int(self.connection.queue(queue).depth().available)

    def _purge(self, queue: str) -> int:
        """Delete all messages of a queue, for ``celery purge``."""
        return int(self.connection.queue(queue).purge())

    def _delete(self, queue: str, *args: Any, **kwargs: Any) -> None:
        """Do nothing: only provisioning makes and removes queues."""


class Transport(virtual.Transport):  # type: ignore[misc]
    """One connection. It has no socket, but a pipe that wakes it when the intake has a message ready."""

    Channel = Channel
    driver_type = "fifo"
    driver_name = "sqs"
    # Waits block on the wake-up; there is nothing to poll.
    polling_interval = None
    default_connection_params: ClassVar[dict[str, Any]] = {}
    # Publishing is tried again on these. They are no connection errors: a consumer that meets one keeps
    # what it holds and goes on.
    connection_errors = ()
    channel_errors = ()
    recoverable_connection_errors = (ServiceError,)
    recoverable_channel_errors = ()
    implements = virtual.Transport.implements.extend(
        asynchronous=True, exchange_type=frozenset(["direct"]), heartbeats=False
    )

    #: returns the settings of this process; set when an app of Celery is configured
    #: (``pipeline.control.transport.configure``)
    settings: ClassVar[Callable[[], Settings]]

    _wakeup: WakeupPipe
    #: the worker's event loop and its thread; None while there is none
    _loop: Any = None
    _loop_thread: int | None = None

    def establish_connection(self) -> Any:
        """Connect. Only now are descriptors opened: some transports are only asked what they can do."""
        self._wakeup = WakeupPipe()
        return super().establish_connection()

    def driver_version(self) -> str:
        """Return the version that ``celery report`` shows."""
        return "1"

    @property
    def source(self) -> TaskSource:
        """Return the task source of this process."""
        return task_source(self._settings())

    @classmethod
    def queue(cls, name: str) -> SqsQueue:
        """Return the queue of that name, to send to."""
        settings = cls._settings()
        return SqsQueue(sqs_client(settings), settings.queue_url(name), shrinking(Payloads(settings)))

    def consume(self, queue: str) -> None:
        """Receive from ``queue``, and wake up when a message is ready."""
        self.source.consume(queue, self._wake)
        self._wakeup.set()

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        """Deliver from the worker's event loop."""
        loop.add_reader(self._wakeup.fileno, self._on_wakeup)
        # One promise: the loop holds it once, however often it is asked for before its next turn.
        self._loop, self._loop_thread, self._deliver = loop, threading.get_ident(), promise(self._on_turn)
        loop.call_repeatedly(1.0, self.source.heartbeat.alive)

    def drain_events(self, connection: Any, timeout: float | None = None) -> None:
        """Deliver what is ready, or wait for it; ``TimeoutError`` after ``timeout`` seconds."""
        self.source.heartbeat.alive()
        if not self._wakeup.wait(timeout):
            raise TimeoutError
        self._on_wakeup()

    def close_connection(self, connection: Any) -> None:
        """Close the channels and the pipe."""
        self._loop_thread = None
        super().close_connection(connection)
        self._wakeup.close()

    def _wake(self) -> None:
        """Call ``_on_wakeup`` on the event loop soon; from the loop's own thread without the pipe."""
        if threading.get_ident() == self._loop_thread:
            self._loop.call_soon(self._deliver)
        else:
            self._wakeup.set()

    def _on_turn(self) -> None:
        if self._loop_thread is not None:  # else it was closed meanwhile: the next connection delivers
            self._on_wakeup()

    def _on_wakeup(self) -> None:
        self._wakeup.clear()
        intake = self.source.intake
        for _ in range(ROUND):
            lease = intake.take()
            if lease is None:
                return
            self._hand_over(lease)
        # A full round: the loop gets its turn before the next.
        self._wake()

    def _hand_over(self, lease: Lease) -> None:
        callback = self._callbacks.get(lease.queue)
        try:
            if callback is None:
                self.source.disposal.give_back(lease)
            elif lease.envelope is None or lease.problem is not None or lease.verdict is not None:
                self.source.end_unrun(lease)
            elif is_for_later(lease.envelope.eta):
                self.source.disposal.give_back(lease, seconds_until(lease.envelope.eta))
            else:
                redelivered = lease.message.receive_count > 1
                callback(lease.envelope.delivered_as(lease.tag, redelivered=redelivered))
        except Exception:
            # The event loop would end the worker, and the message the next one.
            log.exception("message.delivery_failed", queue=lease.queue, message_id=lease.message_id)
            self.source.disposal.give_back(lease, AFTER_DELIVERY_ERROR)

    @classmethod
    def _settings(cls) -> Settings:
        return cls.settings()
