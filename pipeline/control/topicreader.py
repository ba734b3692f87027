"""The reader of a control topic: one thread that hands each message to its subscribers."""

import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Protocol

import structlog
from kombu.transport.virtual.exchange import TopicExchange

from pipeline.control.controlmessage import (
    CHECKS,
    COMMANDS,
    EVENTS,
    Payload,
    count_events,
    decode,
    is_for_now,
    is_old_sign_of_life,
)
from pipeline.control.reachability import Reachability
from pipeline.errors import InvalidInputError, ServiceError
from pipeline.kafka import LogReader, ReceivedRecord
from pipeline.settings import Settings

log = structlog.get_logger(__name__)

#: Records polled at once, and how long one poll lasts (seconds): how late a reader ends.
BATCH, LOOK = 500, 0.2
#: Between tries to open the topic (seconds): short, because each waits for brokers itself.
RETRY_AFTER = 1.0
#: Seconds without a record after which it is checked whether the reader is deaf.
QUIET = 3.0


@dataclass(frozen=True, kw_only=True)
class Past:
    """How much of the past is read: the later of the two bounds."""

    seconds: float
    records: int


#: From now on only.
NOTHING: Final = Past(seconds=0, records=0)


class Subscriber(Protocol):
    """Takes messages: a connection's buffer, or code that handles them on the reader's own thread."""

    def put(self, queue: str, message: Payload) -> None:
        """Take a message for a queue."""


@dataclass(frozen=True, kw_only=True)
class Subscription:
    """A queue that takes messages of a topic."""

    queue: str
    #: matches the routing keys of its messages; None: all
    routing_key: re.Pattern[str] | None
    subscriber: Subscriber


#: The most events of the past that are delivered. Flower takes in 6,000 to 29,000 a second [measured], on
#: the loop that also answers its pages, and shows 100,000 tasks at most.
MOST = 50_000
#: The most bytes of them, several times as many as so many events of workers have.
MOST_BYTES = 100_000_000


class Backlog:
    """The newest records of the past, in order; the oldest are dropped."""

    def __init__(self) -> None:
        self._records: deque[tuple[ReceivedRecord, int]] = deque()
        self._events = self._bytes = 0

    def add(self, message: ReceivedRecord) -> None:
        """Add a record, and drop the oldest while there are more events than ``MOST``, or ``MOST_BYTES``."""
        events = count_events(message.value or b"")
        self._records.append((message, events))
        self._events += events
        self._bytes += len(message.value or b"")
        while self._events > MOST or self._bytes > MOST_BYTES:
            dropped, events = self._records.popleft()
            self._events -= events
            self._bytes -= len(dropped.value or b"")

    def take_all(self) -> Iterator[ReceivedRecord]:
        """Yield the records, the oldest first, and remove them."""
        while self._records:
            yield self._records.popleft()[0]
        self._events = self._bytes = 0


class TopicReader:
    """Reads until it is closed. While brokers are away it waits for them."""

    def __init__(
        self, settings: Settings, exchange: str, topic: str, past: Past, reachability: Reachability
    ) -> None:
        self._settings = settings
        self._exchange = exchange
        self._topic = topic
        self._past = past
        self._reachability = reachability
        self._subscriptions: tuple[Subscription, ...] = ()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._opened = threading.Event()
        self._caught_up = threading.Event()
        #: why the topic could not be opened at the last try
        self.error: ServiceError | None = None
        self._thread = threading.Thread(target=self._work, name=f"control-{exchange}", daemon=True)

    def start(self) -> None:
        """Start to read."""
        self._thread.start()

    def subscribe(self, queue: str, routing_key: str, subscriber: Subscriber) -> None:
        """Hand messages for ``queue`` to ``subscriber``."""
        pattern = _pattern(self._exchange, routing_key)
        with self._lock:
            self._subscriptions += (Subscription(queue=queue, routing_key=pattern, subscriber=subscriber),)

    def unsubscribe(self, queue: str, subscriber: Subscriber) -> None:
        """Stop handing messages for ``queue`` to ``subscriber``."""
        with self._lock:
            self._subscriptions = tuple(
                each
                for each in self._subscriptions
                if each.queue != queue or each.subscriber is not subscriber
            )

    def wait_opened(self, timeout: float) -> bool:
        """Wait until all that is sent from then on is read. False after ``timeout`` seconds."""
        return self._opened.wait(timeout)

    def wait_caught_up(self, timeout: float) -> bool:
        """Wait until all of the past has been delivered. False after ``timeout`` seconds."""
        return self._caught_up.wait(timeout)

    def close(self) -> None:
        """Stop reading. Returns at once."""
        self._stop.set()

    def _work(self) -> None:
        reader: LogReader | None = None
        while not self._stop.is_set():
            try:
                reader = reader or LogReader(self._settings, self._topic)
                self._read(reader)
            except ServiceError as error:
                self.error = error
                if reader is not None:
                    # After an outage a client may never fetch again, or find no broker: a new one does.
                    reader.close()
                    reader = None
                self._opened.clear()
                self._reachability.mark_lost(self._exchange, error)
                self._stop.wait(RETRY_AFTER)
            except Exception:
                log.exception("control.reader_failed", topic=self._topic)
                self._stop.wait(RETRY_AFTER)
        if reader is not None:
            reader.close()

    def _read(self, reader: LogReader) -> None:
        # Events would be counted twice; a revoke that is read twice is the same revoke.
        again = self._caught_up.is_set() and self._exchange != COMMANDS
        start = NOTHING if again else self._past
        reader.open(seconds=start.seconds, records=start.records)
        self._opened.set()
        self._reachability.mark_found(self._exchange)
        backlog = Backlog()
        heard_at = time.monotonic()
        while not self._stop.is_set():
            if not self._caught_up.is_set() and reader.has_caught_up():
                self._deliver_all(backlog)
                self._caught_up.set()
            messages = reader.poll(BATCH, LOOK)
            if messages:
                heard_at = time.monotonic()
            elif time.monotonic() - heard_at > QUIET:
                reader.check()
                heard_at = time.monotonic()
            for message in messages:
                past = reader.is_past(message)
                if past and self._exchange == EVENTS:
                    if not is_old_sign_of_life(message):
                        backlog.add(message)
                else:
                    self._deliver_all(backlog)
                    self._deliver(message, past)

    def _deliver_all(self, backlog: Backlog) -> None:
        for message in backlog.take_all():
            self._deliver(message, past=True)

    def _deliver(self, message: ReceivedRecord, past: bool) -> None:
        subscriptions = self._subscriptions_for((message.key or b"").decode(errors="replace"))
        if not subscriptions:
            return
        try:
            payload = decode(message.value)
            CHECKS[self._exchange](payload)
        except InvalidInputError as error:
            log.error(
                "control.message_invalid", topic=message.topic, offset=message.offset, problem=str(error)
            )
            return
        if self._exchange == COMMANDS and not is_for_now(payload, past=past):
            return
        for each in subscriptions:
            try:
                each.subscriber.put(each.queue, payload)
            except Exception:
                # Reading goes on behind it: from the past it would be read again, and again fail.
                log.exception("control.message_failed", topic=message.topic, offset=message.offset)

    def _subscriptions_for(self, routing_key: str) -> list[Subscription]:
        return [
            each
            for each in self._subscriptions
            if each.routing_key is None or each.routing_key.match(routing_key)
        ]


def _pattern(exchange: str, routing_key: str) -> re.Pattern[str] | None:
    """Return the pattern of routing keys: commands go to all, replies to one, events by their kind."""
    if exchange == COMMANDS or (exchange == EVENTS and routing_key == "#"):
        return None
    if exchange == EVENTS:
        to_pattern: Callable[[str], Any] = TopicExchange(None).key_to_pattern
        return re.compile(to_pattern(routing_key))
    return re.compile(re.escape(routing_key) + "$")
