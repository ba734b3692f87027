"""The kombu transport ``fifo://``: how Celery consumes from and publishes to SQS FIFO queues."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import cache
from typing import Any, ClassVar

import structlog
from kombu.transport import TRANSPORT_ALIASES, virtual
from kombu.transport.virtual.base import queue_declare_ok_t
from vine import promise

from config.settings import Settings
from pipeline import identity
from pipeline.errors import ConfigurationError, MessageRefusedError, ServiceError
from pipeline.sqs import QUEUE_RETENTION, OutgoingMessage, SqsQueue, sqs_client
from pipeline.taskmessage import ATTRIBUTE_ROOM
from pipeline.transport.envelope import PARSED
from pipeline.transport.inbound import Inbound, inbound
from pipeline.transport.intake import HELD_LIMIT
from pipeline.transport.lease import Lease
from pipeline.transport.wakeup import Wakeup

log = structlog.get_logger(__name__)

#: The Celery header that names a plain task's message group; without it each task is its own group.
GROUP_HEADER = "message_group"
#: A task due later than this (seconds) goes back to the queue until then.
PARK_BEYOND = 1.0
DAY = 86_400
#: A task due later than this (seconds) is refused. It leaves a day to run and be tried again in.
LATEST = QUEUE_RETENTION - DAY
#: How long a message whose delivery raised stays hidden (seconds).
AFTER_DELIVERY_ERROR = 30


#: A message and the name of the queue it goes to.
Queued = tuple[str, OutgoingMessage]

_outbox: ContextVar[list[Queued] | None] = ContextVar("outbox", default=None)


@contextmanager
def gathering() -> Iterator[list[Queued]]:
    """What this thread publishes meanwhile is not sent; it is in the list."""
    gathered: list[Queued] = []
    token = _outbox.set(gathered)
    try:
        yield gathered
    finally:
        _outbox.reset(token)


class QoS(virtual.QoS):  # type: ignore[misc]
    """Keeps no list of its own of what was delivered: the intake does, for longer than a channel lives."""

    def append(self, message: Any, delivery_tag: str) -> None:
        """Nothing."""

    def ack(self, delivery_tag: str) -> None:
        """Nothing."""


class Message(virtual.Message):  # type: ignore[misc]
    """A message whose body was parsed when it was received."""

    def __init__(self, payload: dict[str, Any], channel: Any = None, **kwargs: Any) -> None:
        super().__init__(payload, channel, **kwargs)
        # Not kombu's decoder, which refuses data that looks like one of its own types.
        self._decoded_cache = payload.get(PARSED)


class Channel(virtual.Channel):  # type: ignore[misc]
    """One channel. What is held belongs to the process, so a channel may close and lose nothing."""

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
        """Stop receiving; what was not started goes back."""
        queue = self._tag_to_queue.get(consumer_tag)
        super().basic_cancel(consumer_tag)
        if queue is not None:
            self.connection.inbound.cancel(queue)

    def basic_qos(self, prefetch_size: int = 0, prefetch_count: int = 0, apply_global: bool = False) -> None:
        """How many messages the worker takes at once; 0: as many as are held."""
        super().basic_qos(prefetch_size, prefetch_count, apply_global)
        self.connection.inbound.intake.slots = prefetch_count or HELD_LIMIT
        self.connection.inbound.on_ready()

    def basic_ack(self, delivery_tag: str, multiple: bool = False) -> None:
        """Delete the message. Tasks do not come here: they are settled."""
        inbound = self.connection.inbound
        if (lease := inbound.intake.finish(delivery_tag)) is not None:
            inbound.disposal.delete(lease)

    def basic_reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Give the message back: at once, or without ``requeue`` after a while.

        Nothing is dropped: a message nobody can use ends in the dead-letter queue by the redrive policy.
        """
        inbound = self.connection.inbound
        if (lease := inbound.intake.finish(delivery_tag)) is not None:
            inbound.disposal.give_back(lease, 0 if requeue else AFTER_DELIVERY_ERROR)

    def queue_declare(self, queue: str, passive: bool = False, **_: Any) -> queue_declare_ok_t:
        """Provisioning makes queues; only ``passive`` asks SQS, for the number of messages."""
        return queue_declare_ok_t(queue, self._size(queue) if passive else 0, 0)

    # ─── Publishing ───

    def _put(self, queue: str, message: dict[str, Any], **_: Any) -> None:
        headers = message["headers"]
        if message["properties"].get("priority"):
            _warn_of_priority()
        _refuse_too_late(queue, headers.get("eta"))
        _refuse_ids(queue, message["properties"])
        task_id = headers.get("id") or message["properties"]["delivery_tag"]
        outgoing = OutgoingMessage(
            body=json.dumps(message, separators=(",", ":")),
            group_id=identity.group_id(task_id, headers.get(GROUP_HEADER) or task_id, ordered=True),
            deduplication_id=identity.publish_deduplication_id(
                task_id,
                headers.get("retries") or 0,
                headers.get("replaced_task_nesting") or 0,
                headers.get("eta"),
                headers.get("redrives") or 0,
            ),
            room=ATTRIBUTE_ROOM,
        )
        if (outbox := _outbox.get()) is not None:
            outbox.append((queue, outgoing))
            return
        (error,) = self.connection.queue(queue).send([outgoing])
        if error is not None:
            raise error

    def _lookup(self, exchange: str, routing_key: str, default: str | None = None) -> list[str]:
        """The queues a message goes to. kombu would drop one that goes to none."""
        if queues := super()._lookup(exchange, routing_key, default):
            return list(queues)
        raise MessageRefusedError(
            f"Could not publish to exchange {exchange!r} with routing key {routing_key!r}: no queue is bound "
            'to it. There are no exchanges here: name the queue, queue="..."'
        )

    def _size(self, queue: str) -> int:
        return int(self.connection.queue(queue).depth().available)

    def _purge(self, queue: str) -> int:
        """What ``celery purge`` does after it asked."""
        return int(self.connection.queue(queue).purge())

    def _delete(self, queue: str, *args: Any, **kwargs: Any) -> None:
        """Queues are made and removed by provisioning only."""


def _refuse_too_late(queue: str, eta: Any) -> None:
    if (delay := seconds_until(eta)) > LATEST:
        raise MessageRefusedError(
            f"Could not send to {queue}: the task is due in {delay / DAY:.1f} days ({eta}), and a queue "
            f"keeps a message for {QUEUE_RETENTION // DAY}: publish it at most {LATEST // DAY} days before"
        )


def _refuse_ids(queue: str, properties: dict[str, Any]) -> None:
    """What kombu's own SQS transport takes: passed over here, an order would be lost without a word."""
    if given := {"MessageGroupId", "MessageDeduplicationId"} & properties.keys():
        raise MessageRefusedError(
            f"Could not send to {queue}: {', '.join(sorted(given))} is no option here. The group is given as "
            f'headers={{"{GROUP_HEADER}": ...}}; the deduplication id is made from the task id, task_id=...'
        )


@cache
def _warn_of_priority() -> None:
    """Once a process."""
    log.warning(
        "publish.priority_ignored", reason="an SQS FIFO queue gives messages in order, whatever they are"
    )


class Transport(virtual.Transport):  # type: ignore[misc]
    """One connection: no socket of its own, a wake-up for what the process's intake has ready."""

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

    #: set once a process, when the Celery app is configured
    settings: ClassVar[Settings | None] = None

    _wakeup: Wakeup
    #: the worker's event loop, and the thread it runs on; None where there is none, or no longer
    _loop: Any = None
    _loop_thread: int | None = None

    def establish_connection(self) -> Any:
        """Connect. A transport that is only asked what it can do opens no descriptors."""
        self._wakeup = Wakeup()
        return super().establish_connection()

    def driver_version(self) -> str:
        """Shown by ``celery report``."""
        return "1"

    @property
    def inbound(self) -> Inbound:
        """The receiving side of this process."""
        return inbound(self._settings())

    @classmethod
    def queue(cls, name: str) -> SqsQueue:
        """The queue of that name, to send to."""
        settings = cls._settings()
        return SqsQueue(sqs_client(settings), settings.queue_url(name))

    def consume(self, queue: str) -> None:
        """Receive from ``queue``, and be woken when something is ready."""
        self.inbound.on_ready = self._wake
        self.inbound.consume(queue)
        self._wakeup.set()

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        """Deliver from the worker's event loop."""
        loop.add_reader(self._wakeup.fileno, self._on_wakeup)
        # One promise: the loop holds it once, however often it is asked for before its next turn.
        self._loop, self._loop_thread, self._deliver = loop, threading.get_ident(), promise(self._on_turn)
        loop.call_repeatedly(1.0, self.inbound.heartbeat.alive)

    def drain_events(self, connection: Any, timeout: float | None = None) -> None:
        """Deliver what is ready, or wait for it; ``TimeoutError`` after ``timeout`` seconds."""
        self.inbound.heartbeat.alive()
        if not self._wakeup.wait(timeout):
            raise TimeoutError
        self._on_wakeup()

    def close_connection(self, connection: Any) -> None:
        """Close the channels and the wake-up."""
        self._loop_thread = None
        super().close_connection(connection)
        self._wakeup.close()

    def _wake(self) -> None:
        """Have ``_on_wakeup`` called on the event loop soon; from the loop's own thread without a pipe."""
        if threading.get_ident() == self._loop_thread:
            self._loop.call_soon(self._deliver)
        else:
            self._wakeup.set()

    def _on_turn(self) -> None:
        if self._loop_thread is not None:  # else it was closed meanwhile: the next connection delivers
            self._on_wakeup()

    def _on_wakeup(self) -> None:
        self._wakeup.clear()
        intake = self.inbound.intake
        for _ in range(intake.slots):
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
                self.inbound.disposal.give_back(lease)
            elif lease.problem is not None or lease.verdict is not None:
                self.inbound.on_unrunnable(lease)
            elif is_for_later(eta := lease.payload["headers"].get("eta")):
                self.inbound.disposal.give_back(lease, seconds_until(eta))
            else:
                lease.payload["properties"]["delivery_tag"] = lease.tag
                callback(lease.payload)
        except Exception:
            # The event loop would end the worker, and the message the next one.
            log.exception("message.delivery_failed", queue=lease.queue, message_id=lease.message_id)
            self.inbound.disposal.give_back(lease, AFTER_DELIVERY_ERROR)

    @classmethod
    def _settings(cls) -> Settings:
        if cls.settings is None:
            raise ConfigurationError(
                "fifo:// is configured by the app of this project: run celery with -A pipeline"
            )
        return cls.settings


def is_for_later(eta: Any) -> bool:
    """Whether a task with that ``eta`` header waits on SQS until then."""
    return seconds_until(eta) > PARK_BEYOND


def seconds_until(eta: Any) -> float:
    """Seconds from now to an ``eta`` header (ISO 8601, UTC when it names no zone); 0 for none."""
    if not eta:
        return 0
    try:
        due = datetime.fromisoformat(eta)
    except (TypeError, ValueError):
        return 0  # Celery names the bad value when it is delivered
    return (due if due.tzinfo else due.replace(tzinfo=UTC)).timestamp() - time.time()


def configure(settings: Settings) -> None:
    """Make ``fifo://`` known to kombu, for these settings."""
    TRANSPORT_ALIASES["fifo"] = "pipeline.transport.control:Transport"
    Transport.settings = settings


__all__ = [
    "GROUP_HEADER",
    "Channel",
    "Queued",
    "Transport",
    "configure",
    "gathering",
    "is_for_later",
    "seconds_until",
]
