"""Producers: idempotent, acknowledged by all replicas, with an answer for each record."""

import gc
import os
import threading
import time
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import structlog
from confluent_kafka import KafkaError, KafkaException, Producer

from pipeline.errors import ServiceError, ServiceUnavailableError
from pipeline.kafka.configuration import client_configuration, silent_log
from pipeline.kafka.errors import kafka_error
from pipeline.kafka.records import OutgoingRecord
from pipeline.kafka.security import make_client, weak_callback
from pipeline.settings import Settings

log = structlog.get_logger()

OnDelivery = Callable[[ServiceError | None], None]

#: Bytes of the largest record that any topic of this project takes (its errors and DLQ topics), and room for
#: headers. Each topic's own max.message.bytes is smaller and refuses what is too large for it.
MAX_RECORD_BYTES = 8 * 1024 * 1024 + 65_536

#: Seconds until a record that no broker acknowledged fails. The caller tries again with the same ids.
DELIVERY_TIMEOUT = 60

#: Seconds to wait for acknowledgements of a batch: the producer's own tries and a little more. A record that
#: is produced again while its first copy is still under way would be on the topic twice.
EMIT_TIMEOUT = DELIVERY_TIMEOUT + 5.0

#: The same for a LossyProducer. Its records fit a topic's default max.message.bytes.
MAX_LOSSY_BYTES = 1_000_000
LOSSY_TIMEOUT = 10

#: Seconds in which a broker must say who leads a topic for a client to be taken for stuck.
LEADER_TIMEOUT = 5.0

#: Seconds one poll of the delivery reports lasts: how late a closed producer's thread ends.
_POLL = 0.1


def producer_configuration(settings: Settings, name: str) -> dict[str, Any]:
    """Return the librdkafka properties of a producer."""
    return client_configuration(settings, name) | {
        "enable.idempotence": True,
        "acks": "all",
        "compression.type": "snappy",
        # The Java clients' own: both put a key on the same partition.
        "partitioner": "murmur2_random",
        # Long enough to fill a batch at a thousand records/s, short beside a task.
        "linger.ms": 5,
        "message.max.bytes": MAX_RECORD_BYTES,
        "delivery.timeout.ms": DELIVERY_TIMEOUT * 1000,
        # How long a topic that was just made may be unknown; then the record fails as refused.
        "topic.metadata.propagation.max.ms": 10_000,
    }


class EventProducer:
    """One producer for a process's threads to share.

    The client behind it is made at the first record and belongs to the process that made it: a client that
    came through a fork accepts records and never sends them, so a forked child makes its own.
    A fatal error of the idempotent producer ends its client; the next record gets a new one.
    """

    #: what is different from ``producer_configuration``
    _differences: ClassVar[Mapping[str, Any]] = {}
    #: whether a record without an acknowledgement in time ends the client
    _ends_when_late: ClassVar[bool] = False

    def __init__(self, settings: Settings, name: str) -> None:
        self._settings = settings
        self._name = name
        self._lock = threading.Lock()
        self._client: _Client | None = None
        #: Clients of a parent process. Kept: destroying one would wait for threads that do not exist here.
        self._inherited: list[_Client] = []
        _producers.add(self)

    def produce(self, record: OutgoingRecord, on_delivery: OnDelivery) -> None:
        """Queue ``record``; ``on_delivery`` gets None when it is acknowledged, or its error. Never blocks.

        ``on_delivery`` runs once, on the poll thread (on the caller's when the record is refused at once or
        the queue is full): it must be short.
        """
        self._client_of_process().produce(record, on_delivery)

    def emit(self, records: Sequence[OutgoingRecord], timeout: float) -> list[ServiceError | None]:
        """Produce ``records`` and wait until each is acknowledged or failed: an answer for each, in order.

        A record without an answer in ``timeout`` seconds is a ServiceUnavailableError; it may still arrive.
        """
        return self._wait(_Emission(self, records), range(len(records)), timeout)

    def check_topic(self, topic: str, timeout: float) -> None:
        """Raise a ServiceError unless Kafka answers within ``timeout`` seconds and has the topic."""
        self._client_of_process().check_topic(topic, timeout)

    def close(self, timeout: float) -> int:
        """Wait up to ``timeout`` seconds for what is queued, then drop the rest; the number dropped.

        Each dropped record's ``on_delivery`` gets a ServiceUnavailableError. Does not wait for brokers that
        are gone. A record produced later gets a new client.
        """
        with self._lock:
            client, self._client = self._client, None
        return client.close(timeout) if client and client.pid == os.getpid() else 0

    def _wait(
        self, emission: "_Emission", positions: Sequence[int], timeout: float
    ) -> list[ServiceError | None]:
        client, began = self._client_of_process(), time.monotonic()
        answers = emission.wait(positions, timeout)
        failed = {emission.records[at].topic for at, error in zip(positions, answers, strict=True) if error}
        if failed and time.monotonic() - began >= DELIVERY_TIMEOUT:
            client.end_if_stuck(failed)
        return answers

    def _client_of_process(self) -> "_Client":
        client = self._client
        if client is not None and client.pid == os.getpid() and not client.ended:
            return client
        with self._lock:
            client = self._client
            if client is not None and client.pid != os.getpid():
                self._inherited.append(client)
                client = None
            if client is None or client.ended:
                client = self._client = _Client(
                    self._settings, self._name, self._differences, ends_when_late=self._ends_when_late
                )
            return client


class OrderedProducer(EventProducer):
    """A producer whose records of a key arrive in the order they were produced.

    librdkafka drops a record past its delivery timeout and sends the next one. So this one never drops any,
    and a record that is emitted again without an answer is waited for, not produced again.
    """

    _differences = {
        "delivery.timeout.ms": 0,
        # Callers emit a batch and wait for it. Measured: an emit takes 1.7 ms, with 5 ms it took 5.8.
        "linger.ms": 1,
    }

    def __init__(self, settings: Settings, name: str) -> None:
        super().__init__(settings, name)
        #: by the id of a record without an answer
        self._late: dict[int, _Emission] = {}

    def emit(self, records: Sequence[OutgoingRecord], timeout: float) -> list[ServiceError | None]:
        """Produce ``records`` and wait for their answers, as ``EventProducer.emit`` does.

        For those without one call it again with the same objects: behind them nothing of their key arrives.
        """
        earlier = [self._late.pop(id(record)) for record in records if id(record) in self._late]
        emission = earlier[0] if earlier else _Emission(self, records)
        positions = emission.positions_of(records)
        answers = self._wait(emission, positions, timeout)
        self._late |= {id(emission.records[at]): emission for at in emission.unheard}
        return answers


class _Emission:
    """Records on their way to Kafka, and their answers. For one thread, beside those that answer."""

    def __init__(self, producer: EventProducer, records: Sequence[OutgoingRecord]) -> None:
        self._producer = producer
        self.records = records
        self._changed = threading.Condition()
        #: positions of records that were produced and whose answers ``wait`` did not return yet
        self.unheard: set[int] = set()
        self._under_way: set[int] = set()
        self._answers: dict[int, ServiceError | None] = {}

    def positions_of(self, records: Sequence[OutgoingRecord]) -> list[int]:
        """Return the positions of these very objects among its records."""
        positions = {id(record): at for at, record in enumerate(self.records)}
        return [positions[id(record)] for record in records]

    def wait(self, positions: Sequence[int], timeout: float) -> list[ServiceError | None]:
        """Produce the records that are not on their way, and wait for the answers of all of these."""
        self._produce([at for at in positions if at not in self.unheard])
        late = ServiceUnavailableError(f"No acknowledgement from Kafka within {timeout:g} s")
        with self._changed:
            self._changed.wait_for(lambda: not self._under_way, timeout)
            self.unheard = set(self._under_way)
            return [late if at in self._under_way else self._answers[at] for at in positions]

    def _produce(self, positions: Sequence[int]) -> None:
        self.unheard.update(positions)
        self._under_way.update(positions)
        for number, at in enumerate(positions):
            self._producer.produce(self.records[at], partial(self._answer, at))
            failed = None if at in self._under_way else self._answers[at]
            if isinstance(failed, ServiceUnavailableError):
                # The producer's queue is full, for example: none behind it may arrive before it.
                for behind in positions[number + 1 :]:
                    self._answer(behind, failed)
                return

    def _answer(self, at: int, error: ServiceError | None) -> None:
        with self._changed:
            self._answers[at] = error
            self._under_way.discard(at)
            if not self._under_way:  # the caller is woken once, not for each record
                self._changed.notify()


class LossyProducer(EventProducer):
    """A producer of records that may be lost: it buffers few and gives up soon without an acknowledgement.

    Then the next record gets a new client, because nobody waits for these records who would notice a client
    that is stuck (see ``end_if_stuck``; seen as a worker without heartbeats after an outage).
    """

    _ends_when_late = True
    _differences = {
        "logger": silent_log,
        "enable.idempotence": False,
        "acks": 1,
        # Short enough that nobody notices the delay of a task event.
        "linger.ms": 20,
        "message.max.bytes": MAX_LOSSY_BYTES,
        "delivery.timeout.ms": LOSSY_TIMEOUT * 1000,
        "queue.buffering.max.messages": 10_000,
        "queue.buffering.max.kbytes": 16_384,
    }


class OpenHeaders(list[tuple[str, str | bytes | None]]):
    """The headers of a record, to which a tracing library may add its own.

    ddtrace adds to them as to a dict (DD_KAFKA_PROPAGATION_ENABLED), and produce() would raise on a list. A
    dict cannot hold two headers of one name, which a record that is kept as it came may have.
    """

    def __setitem__(self, name: Any, value: Any) -> None:
        """Add a header; of two with one name the last counts."""
        if isinstance(name, str):
            self.append((name, value))
        else:
            super().__setitem__(name, value)


def _renew_locks() -> None:
    """In a forked child: a lock that a thread of the parent held would never be released."""
    for producer in list(_producers):
        producer._lock = threading.Lock()


_producers: "weakref.WeakSet[EventProducer]" = weakref.WeakSet()
os.register_at_fork(after_in_child=_renew_locks)
# A client that is garbage in the parent must not be collected in a forked child: its threads are not there,
# and destroying it trips over that [seen: a segmentation fault].
os.register_at_fork(before=gc.freeze, after_in_parent=gc.unfreeze)


class _Client:
    """One librdkafka producer and the thread that takes its delivery reports."""

    def __init__(
        self, settings: Settings, name: str, differences: Mapping[str, Any], *, ends_when_late: bool
    ) -> None:
        self.pid = os.getpid()
        self._ends_when_late = ends_when_late
        #: A fatal error, or closed: takes no more records.
        self.ended = False
        self._stop = threading.Event()
        self._producer = make_client(
            Producer,
            {
                **producer_configuration(settings, name),
                **differences,
                "error_cb": weak_callback(self._on_error),
            },
        )
        self._thread = threading.Thread(target=self._poll, name=f"kafka-producer-{name}", daemon=True)
        self._thread.start()

    def produce(self, record: OutgoingRecord, on_delivery: OnDelivery) -> None:
        def report(error: KafkaError | None, _: Any) -> None:
            self._report(record.topic, error, on_delivery)

        try:
            self._producer.produce(
                record.topic,
                value=record.value,
                key=record.key,
                headers=OpenHeaders(record.headers),
                on_delivery=report,
            )
        except BufferError:
            on_delivery(
                ServiceUnavailableError(f"Could not emit to {record.topic}: the producer's queue is full")
            )
        except KafkaException as error:
            self._report(record.topic, error, on_delivery)

    def check_topic(self, topic: str, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while True:
            left = max(deadline - time.monotonic(), _POLL)
            try:
                error = self._producer.list_topics(topic, timeout=left).topics[topic].error
            except KafkaException as failure:
                raise kafka_error(failure, f"reach Kafka for {topic}") from failure
            if error is None:
                return
            # A topic that the broker makes when it is asked for is there a moment later.
            if time.monotonic() + _POLL > deadline:
                raise kafka_error(error, f"find topic {topic}")
            time.sleep(_POLL)

    def close(self, timeout: float) -> int:
        self.ended = True
        left = self._producer.flush(timeout)
        if left:
            self._producer.purge()
            self._producer.flush(1.0)
        self._stop.set()
        if threading.current_thread() is not self._thread:
            self._thread.join()
        return left

    def _poll(self) -> None:
        while not self._stop.is_set():
            try:
                self._producer.poll(_POLL)
            except Exception:
                # Without reports every emit would wait for ever.
                log.exception("kafka.poll_failed")

    def _report(self, topic: str, error: KafkaError | KafkaException | None, on_delivery: OnDelivery) -> None:
        """Runs on the poll thread, which must outlive whatever a callback raises."""
        converted = None
        if error is not None:
            converted = kafka_error(error, f"emit to {topic}")
            reason = error.args[0] if isinstance(error, KafkaException) else error
            self._end_if_fatal(reason)
            if self._ends_when_late and reason.code() == KafkaError._MSG_TIMED_OUT:
                self._end(0.0)
        try:
            on_delivery(converted)
        except Exception:
            log.exception("kafka.delivery_callback_failed", topic=topic)

    def _on_error(self, error: KafkaError) -> None:
        self._end_if_fatal(error)

    def end_if_stuck(self, topics: Collection[str]) -> None:
        """End if brokers answer and lead all of ``topics``, whose records were not acknowledged.

        Seen after a broker was killed and came back: librdkafka keeps records for partitions that had no
        leader for a moment (its issue 5430, open in 2.16). What is held fails, so that callers emit it again,
        with a new client.
        """
        if self.ended:
            return
        try:
            found = [
                self._producer.list_topics(topic, timeout=LEADER_TIMEOUT).topics[topic] for topic in topics
            ]
        except KafkaException:
            return
        if all(
            topic.error is None and all(each.leader >= 0 for each in topic.partitions.values())
            for topic in found
        ):
            log.error("kafka.producer_ended", reason="no acknowledgement, though brokers answer")
            self._end(0.0)

    def _end_if_fatal(self, error: KafkaError) -> None:
        if not self.ended and (error.fatal() or error.code() == KafkaError._FATAL):
            log.error("kafka.producer_ended", reason=error.str())
            # librdkafka fails what it holds by itself; this lets the poll thread end when it has.
            self._end(DELIVERY_TIMEOUT)

    def _end(self, timeout: float) -> None:
        if not self.ended:
            self.ended = True
            threading.Thread(target=self.close, args=(timeout,), daemon=True).start()
