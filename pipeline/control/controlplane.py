"""The control plane of a process: Celery's three control exchanges, carried by three topics of Kafka.

Its clients are shared by all connections of the process and made when first needed; a forked child makes
its own. Each topic has one partition: commands and events have one order, every reader reads all of them
anyway, and what a few thousand small records a second need is far below what one partition carries.
"""

import os
import threading
from typing import Final

from kombu.exceptions import OperationalError

from config.settings import Settings
from pipeline.errors import ServiceError
from pipeline.kafka import LossyProducer, Record
from pipeline.transport.controlmessage import COMMANDS, EVENTS, REPLIES, Payload, count_events, encode
from pipeline.transport.feed import NOTHING, Feed, Past
from pipeline.transport.inbox import Inbox
from pipeline.transport.reach import Reach

#: How long a client (``celery inspect``, Flower) waits until it can hear replies, and until its command is
#: acknowledged (seconds).
CLIENT_WAIT = 5.0
#: How long a starting worker waits for what was revoked while it was away (seconds): without Kafka it
#: starts so much later.
START_WAIT = 1.0
#: For so long Celery itself remembers what was revoked (celery.worker.state.REVOKE_EXPIRES, seconds), and
#: the commands of that time are not more.
REVOKED: Final = Past(seconds=10_800, records=50_000)
#: How long an ending process waits for its last events to be acknowledged (seconds).
LAST_WAIT = 1.0

DISABLED = "KAFKA_ENABLED is false, and Celery's control plane is carried by Kafka: workers cannot be asked."


class ControlPlane:
    """Publishes to the control exchanges and feeds those who listen to them."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._topics = dict(zip((EVENTS, COMMANDS, REPLIES), settings.control_topics, strict=True))
        self._events = LossyProducer(settings, "control-events")
        self._control = LossyProducer(settings, "control")
        self._feeds: dict[str, Feed] = {}
        self._lock = threading.Lock()
        self._has_started = False
        self.reach = Reach()

    # ─── Publishing ───

    def publish(self, exchange: str, routing_key: str, payload: Payload) -> None:
        """Publish as Celery does: an event or a reply is never waited for, a command always.

        Raises ``OperationalError`` when a command could not be sent.
        """
        value = encode(payload)
        record = Record(topic=self._topics[exchange], key=routing_key.encode(), value=value)
        if exchange == COMMANDS:
            self._send_command(record)
        elif self._settings.kafka_enabled:
            producer = self._events if exchange == EVENTS else self._control
            count = count_events(value) if exchange == EVENTS else 0
            producer.produce(record, lambda error: self.reach.answered("events", error, events=count))

    def _send_command(self, record: Record) -> None:
        self._require_kafka()
        [error] = self._control.emit([record], CLIENT_WAIT)
        if error is not None:
            raise self._unreachable(error)

    # ─── Listening ───

    def subscribe(self, exchange: str, queue: str, routing_key: str, inbox: Inbox) -> None:
        """Hand what is published to ``exchange`` from now on to ``inbox``.

        A client that waits for replies raises ``OperationalError`` when it would not hear them. A worker
        does not wait for Kafka, and begins to listen when it can.
        """
        self._require_kafka()
        with self._lock:
            feed = self._feeds.get(_name(exchange, queue)) or self._start(exchange, queue)
        feed.subscribe(queue, routing_key, inbox)
        if exchange == REPLIES and not feed.wait_opened(CLIENT_WAIT):
            feed.unsubscribe(queue, inbox)
            raise self._unreachable(feed.error)
        if exchange == COMMANDS and not self._has_started:
            self._has_started = True
            feed.wait_caught_up(START_WAIT)

    def unsubscribe(self, exchange: str, queue: str, inbox: Inbox) -> None:
        """Hand nothing more to ``inbox``."""
        with self._lock:
            feed = self._feeds.get(_name(exchange, queue))
            if feed is None:
                return
            feed.unsubscribe(queue, inbox)
            # Replies are listened to for as long as the process lives: Flower asks all the time.
            if exchange != REPLIES:
                del self._feeds[queue]
                feed.close()

    def close(self) -> None:
        """Listen no more; send the last events, for at most ``LAST_WAIT`` seconds."""
        with self._lock:
            for feed in self._feeds.values():
                feed.close()
            self._feeds.clear()
        for producer in (self._events, self._control):
            producer.close(LAST_WAIT)

    def _start(self, exchange: str, queue: str) -> Feed:
        feed = Feed(self._settings, exchange, self._topics[exchange], self._past(exchange), self.reach)
        self._feeds[_name(exchange, queue)] = feed
        feed.start()
        return feed

    def _past(self, exchange: str) -> Past:
        if exchange == COMMANDS:
            return REVOKED
        if exchange == EVENTS:
            settings = self._settings
            return Past(seconds=settings.events_history_seconds, records=settings.events_history_records)
        return NOTHING

    def _require_kafka(self) -> None:
        if not self._settings.kafka_enabled:
            raise OperationalError(DISABLED)

    def _unreachable(self, error: ServiceError | None) -> OperationalError:
        reason = error or f"no answer within {CLIENT_WAIT:g} s"
        return OperationalError(
            f"The control plane is out of reach at Kafka ({self._settings.kafka_bootstrap_servers}): {reason}"
        )


def _name(exchange: str, queue: str) -> str:
    """Of a feed: those who wait for replies share one, every other queue has its own, with its own start."""
    return exchange if exchange == REPLIES else queue


_plane: ControlPlane | None = None
#: Planes of a parent process. Kept: destroying their clients here would wait for threads that are not here.
_inherited: list[ControlPlane] = []
_making = threading.Lock()


def control_plane(settings: Settings) -> ControlPlane:
    """This process's control plane."""
    global _plane
    with _making:
        if _plane is None:
            _plane = ControlPlane(settings)
        return _plane


def close_control_plane() -> None:
    """End this process's control plane, if it has one (``ControlPlane.close``)."""
    global _plane
    if _plane is not None:
        current, _plane = _plane, None
        current.close()


def _forget_plane() -> None:
    """In a forked child: the threads are the parent's."""
    global _plane, _making
    if _plane is not None:
        _inherited.append(_plane)
    _plane, _making = None, threading.Lock()


os.register_at_fork(after_in_child=_forget_plane)
