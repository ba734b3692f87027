"""A member of a consumer group: batches, pause and resume, manual commits, partitions that come and go."""

import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from operator import methodcaller
from typing import Any

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka import Message as VendorMessage

from pipeline.errors import ServiceError, ServiceRefusedError
from pipeline.kafka.configuration import READ_COMMITTED, client_configuration
from pipeline.kafka.errors import kafka_error
from pipeline.kafka.positions import Partition, Positions, Restart
from pipeline.kafka.records import ReceivedRecord
from pipeline.kafka.security import make_client, weak_callback
from pipeline.kafka.stuck import StuckPartitions
from pipeline.settings import Settings
from pipeline.wire.events import UNREADABLE

log = structlog.get_logger()

#: Seconds between polls after which a member is put out of its group. The loop polls many times a second
#: and never waits for work; this is the longest a commit at a rebalance may take, with room.
MAX_POLL_INTERVAL = 600

#: Seconds without a heartbeat after which a member is taken for dead, and its partitions given to others.
#: Kafka's default is 45. Heartbeats come from a thread of librdkafka, however busy the loop is.
SESSION_TIMEOUT = 15

#: Seconds until librdkafka (default: 60) asks again where a broker does not answer a request, on another
#: connection. It sends a commit three times at most, and reads no new partition before it is answered.
ANSWER_TIMEOUT = 15

#: The group changes its members just now. Partitions that stay are committed by the next commit, those that
#: go by that of ``on_revoked``.
_REBALANCING = frozenset(
    {KafkaError.ILLEGAL_GENERATION, KafkaError.REBALANCE_IN_PROGRESS, KafkaError.STALE_MEMBER_EPOCH}
)

#: The mend for one of two members with one name (static membership).
SHARED_NAME = "another member of the group has this KAFKA_GROUP_INSTANCE_ID; give each bridge its own"


OnPartitions = Callable[[list[Partition]], None]
#: Called with the offsets that are committed, and the error of those that are not.
OnCommitted = Callable[[Mapping[Partition, int], ServiceError | None], None]
OnVendorPartitions = Callable[[Consumer, list[TopicPartition]], None]

#: ``answer.headers()``. The client (2.16) answers with an exception set where a name is not UTF-8. Python
#: sees that in a call from C; in one that it has specialised (PEP 659) it raises the exception later and
#: elsewhere, or the process ends.
_vendor_headers = methodcaller("headers")


def consumer_configuration(settings: Settings, group: str) -> dict[str, Any]:
    """Return the librdkafka properties of a group's member."""
    configuration = client_configuration(settings, "consumer") | {
        **READ_COMMITTED,
        "group.id": group,
        "group.protocol": settings.kafka_group_protocol,
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        # ``Positions`` decides. An idle group's offsets expire after 7 days: it starts at the beginning then.
        "auto.offset.reset": "error",
        # The end of a partition is reached without a record where transaction markers come last.
        "enable.partition.eof": True,
        "max.poll.interval.ms": MAX_POLL_INTERVAL * 1000,
        "socket.timeout.ms": ANSWER_TIMEOUT * 1000,
        # Memory for events fetched ahead, per process.
        "queued.max.messages.kbytes": 32_768,
        "fetch.queue.backoff.ms": 50,
    }
    if settings.kafka_group_instance_id:
        configuration["group.instance.id"] = settings.kafka_group_instance_id
    if settings.kafka_group_protocol == "classic":
        # No properties of the "consumer" protocol (KIP-848), whose broker decides them; it refuses these.
        configuration["partition.assignment.strategy"] = "cooperative-sticky"
        configuration["session.timeout.ms"] = SESSION_TIMEOUT * 1000
    return configuration


class EventConsumer:
    """A member of a consumer group. One thread calls it: a call waits for that of another thread to return.

    Nothing is committed by itself, and new partitions are not paused. The callbacks run inside ``poll``,
    ``flush`` and ``close``. While ``on_revoked`` runs the partitions are still held: commit there. After
    ``on_lost`` another member has them: their offsets must not be committed.
    """

    def __init__(
        self,
        settings: Settings,
        topics: Sequence[str],
        group: str,
        *,
        on_assigned: OnPartitions = lambda _: None,
        on_revoked: OnPartitions = lambda _: None,
        on_lost: OnPartitions = lambda _: None,
        on_restarted: Callable[[Restart], None] = lambda _: None,
        on_committed: OnCommitted = lambda *_: None,
    ) -> None:
        configuration = consumer_configuration(settings, group) | {"on_commit": weak_callback(self._answer)}
        self._consumer = make_client(Consumer, configuration)
        self._positions = Positions(self._consumer, settings, self._restarting(on_restarted))
        self._stuck = StuckPartitions(self._consumer, self._positions.admin)
        #: Of each partition whose end was reached since ``take_ends``, that end.
        self._ends: dict[Partition, int] = {}
        self._failure: ServiceError | None = None
        self._on_committed = on_committed
        #: The last offset asked to be committed, of each partition as it is held now.
        self._asked: dict[Partition, int] = {}
        #: When each commit without an answer was asked for, oldest first.
        self._unanswered: deque[float] = deque()
        self._consumer.subscribe(
            list(topics),
            on_assign=self._starting(on_assigned),
            on_revoke=self._leaving(on_revoked),
            on_lost=self._leaving(on_lost),
        )

    def poll(self, max_messages: int, timeout: float) -> list[ReceivedRecord]:
        """Return up to ``max_messages``, waiting at most ``timeout`` seconds; must be called often.

        Raises a ServiceRefusedError for what polling on does not mend (access denied, a missing topic, two
        members of one name), after the messages before it were returned. Waits for brokers that are away.
        """
        if self._failure:
            failure, self._failure = self._failure, None
            raise failure
        self._positions.check()
        try:
            # In two steps: one call would wait the whole timeout for the last of max_messages.
            answers = self._consumer.consume(1, timeout)
            if answers and max_messages > 1:
                answers += self._consumer.consume(max_messages - 1, 0)
        except KafkaException as error:
            raise kafka_error(error, "consume") from error
        if len(answers) < max_messages:
            self._stuck.run_dry()
        return [record_of(answer) for answer in answers if self._is_message(answer)]

    def pause(self, partitions: Collection[Partition]) -> None:
        """Fetch no more of ``partitions``; polling goes on, so the member stays in its group."""
        self._consumer.pause(_theirs(partitions))
        self._stuck.pause(partitions)

    def resume(self, partitions: Collection[Partition]) -> None:
        """Fetch ``partitions`` again."""
        self._consumer.resume(_theirs(partitions))
        self._stuck.resume(partitions)

    def take_ends(self) -> dict[Partition, int]:
        """Return the partitions whose end was reached since the last call, each with that end.

        All records before it were returned by ``poll``; the rest are transaction markers, aborted records.
        """
        ends, self._ends = self._ends, {}
        return ends

    def unread(self) -> dict[Partition, int]:
        """Return how many events of each assigned partition ``poll`` has not returned yet; asks no broker.

        Counted to the end that the last fetch saw, or, where records do not come, to the one that a broker
        told (``stuck``). Partitions of which ``poll`` has returned nothing yet are left out.
        """
        found = {}
        for at in self._consumer.position(self._consumer.assignment()):
            partition = Partition(at.topic, at.partition)
            marks = self._consumer.get_watermark_offsets(at, cached=True)
            end = max(marks[1] if marks else -1, self._stuck.told_end(partition))
            if at.offset >= 0 and end >= 0:
                found[partition] = max(0, end - at.offset)
        return found

    def stuck(self) -> list[Partition]:
        """Return the partitions whose records this client does not get, for at least a minute.

        Brokers have them, and answer. Close this consumer then, and make another one. Call it often; it never
        waits for a broker.
        """
        return self._stuck.find()

    def commit(self, offsets: Mapping[Partition, int]) -> None:
        """Ask Kafka to commit the next offset to read of each partition; ``on_committed`` has the answer.

        In ``on_revoked`` it is sent before the partitions are given away, and they wait for the answer. What
        is asked before they go is not told afterwards.
        """
        if not offsets:
            return
        asked = [
            TopicPartition(*partition, offset, metadata=self._positions.note(partition.topic))
            for partition, offset in offsets.items()
        ]
        self._asked |= offsets
        self._unanswered.append(time.monotonic())
        try:
            # Not one that waits for the answer: without brokers it takes minutes, in which no call returns.
            self._consumer.commit(offsets=asked, asynchronous=True)
        except KafkaException as error:
            self._unanswered.pop()
            self._on_committed({}, kafka_error(error, "commit offsets"))

    def unanswered(self) -> float:
        """Return the seconds since the oldest commit without an answer was asked for; 0 if there is none."""
        return time.monotonic() - self._unanswered[0] if self._unanswered else 0.0

    def flush(self, timeout: float) -> bool:
        """Wait up to ``timeout`` seconds until every commit is answered; return whether all are.

        Only to be followed by ``close``: records that come meanwhile are dropped.
        """
        deadline = time.monotonic() + timeout
        while self._unanswered and (left := deadline - time.monotonic()) > 0:
            self._consumer.poll(min(left, 0.1))
        return not self._unanswered

    def close(self) -> None:
        """Leave the group, so that its partitions move at once; commits nothing by itself.

        With a commit unanswered no broker answers, and leaving would wait for one: the group drops this
        member when its session ends.
        """
        if not self._unanswered:
            self._consumer.close()
        # Its clients end with their last references, here and not in a collection (``weak_callback``).
        del self._consumer, self._positions, self._stuck

    def _answer(self, error: KafkaError | None, answers: list[TopicPartition]) -> None:
        """Tell what a commit did. An earlier assignment's offsets are not those of the present one."""
        if self._unanswered:
            self._unanswered.popleft()
        committed = {}
        failure = kafka_error(error, "commit offsets") if error and error.code() not in _REBALANCING else None
        for at in answers:
            partition = Partition(at.topic, at.partition)
            if at.error is not None and at.error.code() not in _REBALANCING:
                failure = kafka_error(at.error, f"commit offsets of {at.topic} [{at.partition}]")
            elif not at.error and not error and self._asked.get(partition) == at.offset:
                committed[partition] = at.offset
        self._on_committed(committed, failure)

    def _starting(self, on_assigned: OnPartitions) -> OnVendorPartitions:
        def call(_: Consumer, assigned: list[TopicPartition]) -> None:
            # librdkafka (2.16) keeps the pause of a partition that goes: it would come back paused.
            self._consumer.resume(assigned)
            self._forget(_ours(assigned))
            on_assigned(_ours(assigned))
            self._consumer.incremental_assign(self._positions.start(assigned))

        return call

    def _leaving(self, callback: OnPartitions) -> OnVendorPartitions:
        def call(_: Consumer, partitions: list[TopicPartition]) -> None:
            callback(_ours(partitions))
            self._positions.forget(_ours(partitions))
            self._forget(_ours(partitions))

        return call

    def _restarting(self, on_restarted: Callable[[Restart], None]) -> Callable[[Restart], None]:
        def call(restart: Restart) -> None:
            self._forget([restart.partition])
            on_restarted(restart)

        return call

    def _forget(self, partitions: Collection[Partition]) -> None:
        self._stuck.forget(partitions)
        for partition in partitions:
            self._asked.pop(partition, None)

    def _is_message(self, answer: VendorMessage) -> bool:
        error = answer.error()
        if error is None:
            return True
        if error.code() == KafkaError._PARTITION_EOF:
            self._set_end(answer)
            return False
        topic, number = answer.topic(), answer.partition()
        if topic is not None and number is not None:
            self._stuck.excuse([Partition(topic, number)])
        if error.code() == KafkaError._AUTO_OFFSET_RESET:
            self._positions.set_out_of_range(answer)
            return False
        converted = kafka_error(error, f"consume {answer.topic() or ''}".strip())
        if error.code() == KafkaError._FATAL:
            # This client gets nothing more, ever.
            mend = f": {SHARED_NAME}" if "instance" in error.str() else ""
            self._failure = ServiceRefusedError(f"{converted}{mend}")
        elif isinstance(converted, ServiceRefusedError):
            self._failure = converted
        else:
            log.warning("kafka.consume_error", error=str(converted))
        return False

    def _set_end(self, answer: VendorMessage) -> None:
        topic, number, offset = answer.topic(), answer.partition(), answer.offset()
        if topic is not None and number is not None and offset is not None:
            self._ends[Partition(topic, number)] = offset
            self._stuck.reach(Partition(topic, number), offset)


def record_of(answer: VendorMessage) -> ReceivedRecord:
    """Return the record in an answer of the client."""
    topic, partition, offset = answer.topic(), answer.partition(), answer.offset()
    if topic is None or partition is None or offset is None:
        raise ValueError(f"A consumed record without coordinates: {answer!r}")
    return ReceivedRecord(
        topic=topic,
        partition=partition,
        offset=offset,
        timestamp_ms=answer.timestamp()[1],
        key=answer.key(),
        value=answer.value(),
        headers=tuple(_headers(answer)),
    )


def _headers(answer: VendorMessage) -> Iterable[tuple[str, bytes]]:
    try:
        headers = _vendor_headers(answer) or []
    except SystemError as error:
        # Brokers take any bytes as a header's name, the client (2.16) only UTF-8: no reader may end of it.
        yield UNREADABLE, str(error.__cause__ or error).encode()
        return
    for name, value in headers.items() if isinstance(headers, dict) else headers:
        yield name, value.encode() if isinstance(value, str) else value or b""


def _ours(partitions: Iterable[TopicPartition]) -> list[Partition]:
    return [Partition(partition.topic, partition.partition) for partition in partitions]


def _theirs(partitions: Iterable[Partition]) -> list[TopicPartition]:
    return [TopicPartition(*partition) for partition in partitions]
