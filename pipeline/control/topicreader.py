"""A feed: one thread that reads one control topic and hands each message to those it is for."""

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

import structlog
from kombu.transport.virtual.exchange import TopicExchange

from config.settings import Settings
from pipeline.errors import InvalidInputError, ServiceError
from pipeline.kafka import LogReader, Message
from pipeline.transport.backlog import Backlog
from pipeline.transport.controlmessage import (
    CHECKS,
    COMMANDS,
    EVENTS,
    Payload,
    decode,
    is_for_now,
    is_old_sign_of_life,
)
from pipeline.transport.reach import Reach

log = structlog.get_logger(__name__)

#: Records taken from the reader at once, and how long one look lasts (seconds): how late a feed ends.
BATCH, LOOK = 500, 0.2
#: Between tries to open the topic (seconds): short, because the client itself backs off.
RETRY_AFTER = 1.0


@dataclass(frozen=True, kw_only=True)
class Past:
    """How much of what was there before is read: the later of the two bounds."""

    seconds: float
    records: int


#: From now on only.
NOTHING: Final = Past(seconds=0, records=0)


class Taker(Protocol):
    """Who takes messages: an inbox, or what reads them on the feed's own thread."""

    def put(self, queue: str, message: Payload) -> None:
        """Take a message for a queue."""


@dataclass(frozen=True, kw_only=True)
class Subscription:
    """A queue that takes messages of a feed."""

    queue: str
    #: which messages are for it, by their routing key; None: all
    routing_key: re.Pattern[str] | None
    inbox: Taker


class Feed:
    """Reads from when it was made until it is closed; brokers that are away are waited for."""

    def __init__(self, settings: Settings, exchange: str, topic: str, past: Past, reach: Reach) -> None:
        self._settings = settings
        self._exchange = exchange
        self._topic = topic
        self._past = past
        self._reach = reach
        self._subscriptions: tuple[Subscription, ...] = ()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._opened = threading.Event()
        self._caught_up = threading.Event()
        #: why the topic could not be opened at the last try
        self.error: ServiceError | None = None
        self._thread = threading.Thread(target=self._work, name=f"control-{exchange}", daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def subscribe(self, queue: str, routing_key: str, inbox: Taker) -> None:
        """Hand messages to ``inbox`` for ``queue``."""
        pattern = _pattern(self._exchange, routing_key)
        with self._lock:
            self._subscriptions += (Subscription(queue=queue, routing_key=pattern, inbox=inbox),)

    def unsubscribe(self, queue: str, inbox: Taker) -> None:
        """Hand no more messages to it."""
        with self._lock:
            self._subscriptions = tuple(
                each for each in self._subscriptions if each.queue != queue or each.inbox is not inbox
            )

    def wait_opened(self, timeout: float) -> bool:
        """Whether what is sent from now on will be read; waits at most ``timeout`` seconds for it."""
        return self._opened.wait(timeout)

    def wait_caught_up(self, timeout: float) -> bool:
        """Whether all of the past was handed out; waits at most ``timeout`` seconds for it."""
        return self._caught_up.wait(timeout)

    def close(self) -> None:
        """Read no more. Returns at once."""
        self._stop.set()

    def _work(self) -> None:
        reader: LogReader | None = None
        while not self._stop.is_set():
            try:
                reader = reader or LogReader(self._settings, self._topic)
                self._read(reader)
            except ServiceError as error:
                self.error = error
                self._opened.clear()
                self._reach.lost(self._exchange, error)
                self._stop.wait(RETRY_AFTER)
            except Exception:
                log.exception("control.feed_failed", topic=self._topic)
                self._stop.wait(RETRY_AFTER)
        if reader is not None:
            reader.close()

    def _read(self, reader: LogReader) -> None:
        # Events would be counted twice; a revoke that is read twice is the same revoke.
        again = self._caught_up.is_set() and self._exchange != COMMANDS
        start = NOTHING if again else self._past
        reader.open(seconds=start.seconds, records=start.records)
        self._opened.set()
        self._reach.found(self._exchange)
        backlog = Backlog()
        while not self._stop.is_set():
            if not self._caught_up.is_set() and reader.has_caught_up():
                self._hand_out_all(backlog)
                self._caught_up.set()
            for message in reader.poll(BATCH, LOOK):
                past = reader.is_past(message)
                if past and self._exchange == EVENTS:
                    if not is_old_sign_of_life(message):
                        backlog.add(message)
                else:
                    self._hand_out_all(backlog)
                    self._hand_out(message, past)

    def _hand_out_all(self, backlog: Backlog) -> None:
        for message in backlog.take_all():
            self._hand_out(message, past=True)

    def _hand_out(self, message: Message, past: bool) -> None:
        takers = self._takers((message.key or b"").decode(errors="replace"))
        if not takers:
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
        for taker in takers:
            taker.inbox.put(taker.queue, payload)

    def _takers(self, routing_key: str) -> list[Subscription]:
        return [
            each
            for each in self._subscriptions
            if each.routing_key is None or each.routing_key.match(routing_key)
        ]


def _pattern(exchange: str, routing_key: str) -> re.Pattern[str] | None:
    """Commands go to all, replies to whom they name, events to who asked for their kind."""
    if exchange == COMMANDS or (exchange == EVENTS and routing_key == "#"):
        return None
    if exchange == EVENTS:
        to_pattern: Callable[[str], Any] = TopicExchange(None).key_to_pattern
        return re.compile(to_pattern(routing_key))
    return re.compile(re.escape(routing_key) + "$")
