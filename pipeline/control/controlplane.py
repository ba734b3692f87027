"""The control plane of a process: Celery's three control exchanges, carried by three topics of Kafka.

All connections of the process share its clients, which are made when first needed; a forked child makes its
own. Each topic has one partition: commands and events have one order, every reader reads all of them, and a
few thousand small records a second are far below what one partition carries.
"""

import os
import threading
from typing import Final

from kombu.exceptions import OperationalError

from pipeline.control.controlmessage import (
    COMMANDS,
    EVENTS,
    REPLIES,
    REVOKES_LAST,
    Payload,
    check_command,
    count_events,
    decode,
    encode,
)
from pipeline.control.reachability import Reachability
from pipeline.control.signing import Signer
from pipeline.control.topicreader import NOTHING, Past, Subscriber, TopicReader
from pipeline.errors import ServiceError
from pipeline.kafka import LossyProducer, OutgoingRecord
from pipeline.settings import Settings

#: How long a client (``celery inspect``, Flower) waits until it can read replies, and until its command is
#: acknowledged (seconds).
CLIENT_WAIT = 5.0
#: How long a starting worker waits for the revokes sent while it was away (seconds): without Kafka it starts
#: so much later.
START_WAIT = 1.0
#: How much of the past is read for revokes; fewer commands than that are sent in this time.
REVOKED: Final = Past(seconds=REVOKES_LAST, records=50_000)
#: How long an ending process waits for its last events to be acknowledged (seconds).
LAST_WAIT = 1.0

DISABLED = (
    "KAFKA_ENABLED is false, and Celery's control plane is carried by Kafka: workers cannot be asked. "
    "Set it to true to reach them."
)


class ControlPlane:
    """Publishes to the control exchanges, and reads them for their subscribers."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._topics = dict(zip((EVENTS, COMMANDS, REPLIES), settings.control_topics, strict=True))
        self._events = LossyProducer(settings, "control-events")
        self._control = LossyProducer(settings, "control")
        self._readers: dict[str, TopicReader] = {}
        self._lock = threading.Lock()
        self._has_started = False
        self._signer = Signer.of(settings)
        self.reachability = Reachability()

    # ─── Publishing ───

    def publish(self, exchange: str, routing_key: str, payload: Payload) -> None:
        """Publish a message. A command is waited for; an event or a reply never is.

        Raises ``OperationalError`` when a command could not be sent, and ``InvalidInputError`` for one that
        no worker would read.
        """
        if exchange == COMMANDS:
            check_command(decode(encode(payload)))
            if self._signer is not None:
                self._signer.sign(payload)
        value = encode(payload)
        record = OutgoingRecord(topic=self._topics[exchange], key=routing_key.encode(), value=value)
        if exchange == COMMANDS:
            self._send_command(record)
        elif self._settings.kafka_enabled:
            producer = self._events if exchange == EVENTS else self._control
            count = count_events(value) if exchange == EVENTS else 0
            producer.produce(
                record, lambda error: self.reachability.note_answer("events", error, events=count)
            )

    def _send_command(self, record: OutgoingRecord) -> None:
        self._require_kafka()
        [error] = self._control.emit([record], CLIENT_WAIT)
        if error is not None:
            raise self._unreachable(error)

    # ─── Listening ───

    def subscribe(self, exchange: str, queue: str, routing_key: str, subscriber: Subscriber) -> None:
        """Hand what is published to ``exchange`` from now on to ``subscriber``.

        Raises ``OperationalError`` for a client that could not read its replies. A worker does not wait for
        Kafka: it listens once Kafka answers.
        """
        self._require_kafka()
        with self._lock:
            reader = self._readers.get(_name(exchange, queue)) or self._start(exchange, queue)
        reader.subscribe(queue, routing_key, subscriber)
        if exchange == REPLIES and not reader.wait_opened(CLIENT_WAIT):
            reader.unsubscribe(queue, subscriber)
            raise self._unreachable(reader.error)
        if exchange == COMMANDS and not self._has_started:
            self._has_started = True
            reader.wait_caught_up(START_WAIT)

    def unsubscribe(self, exchange: str, queue: str, subscriber: Subscriber) -> None:
        """Stop handing messages to ``subscriber``."""
        with self._lock:
            reader = self._readers.get(_name(exchange, queue))
            if reader is None:
                return
            reader.unsubscribe(queue, subscriber)
            # Replies are read for as long as the process lives: Flower asks all the time.
            if exchange != REPLIES:
                del self._readers[queue]
                reader.close()

    def close(self) -> None:
        """Stop reading; send the last events, for at most ``LAST_WAIT`` seconds."""
        with self._lock:
            for reader in self._readers.values():
                reader.close()
            self._readers.clear()
        for producer in (self._events, self._control):
            producer.close(LAST_WAIT)

    def _start(self, exchange: str, queue: str) -> TopicReader:
        reader = TopicReader(
            self._settings, exchange, self._topics[exchange], self._past(exchange), self.reachability
        )
        self._readers[_name(exchange, queue)] = reader
        reader.start()
        return reader

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
    """Return the name of a queue's reader: replies share one, each other queue has its own."""
    return exchange if exchange == REPLIES else queue


_plane: ControlPlane | None = None
#: Planes of a parent process. Kept: destroying their clients here would wait for threads that are not here.
_inherited: list[ControlPlane] = []
_making = threading.Lock()


def control_plane(settings: Settings) -> ControlPlane:
    """Return the control plane of this process."""
    global _plane
    with _making:
        if _plane is None:
            _plane = ControlPlane(settings)
        return _plane


def close_control_plane() -> None:
    """Close the control plane of this process, if it has one."""
    global _plane
    if _plane is not None:
        current, _plane = _plane, None
        current.close()


def _forget_plane() -> None:
    """Forget it in a forked child: its threads are the parent's."""
    global _plane, _making
    if _plane is not None:
        _inherited.append(_plane)
    _plane, _making = None, threading.Lock()


os.register_at_fork(after_in_child=_forget_plane)
