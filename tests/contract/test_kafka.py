"""The behaviour of Kafka that this project relies on, on the embedded and on the local services."""

import ctypes
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import confluent_kafka
import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from pipeline.errors import MessageRefusedError, ServiceError, ServiceRefusedError, ServiceUnavailableError
from pipeline.kafka import (
    EventConsumer,
    EventProducer,
    GroupOffsets,
    KafkaAdmin,
    OrderedProducer,
    OutgoingRecord,
    Partition,
    ReceivedRecord,
    Restart,
)
from pipeline.kafka.consumer import SESSION_TIMEOUT
from pipeline.services.environment import Services
from pipeline.settings import Settings
from pipeline.wire.events import UNREADABLE
from tests.conftest import MakeSettings
from tests.kafkagroups import members
from tests.processes import PATIENCE, wait_until

TOPIC_CONFIG = {"retention.ms": "3600000"}


@pytest.fixture
def settings(services: Services, make_settings: MakeSettings) -> Settings:
    return make_settings(services)


@pytest.fixture
def admin(settings: Settings) -> KafkaAdmin:
    return KafkaAdmin(settings)


@pytest.fixture
def offsets(settings: Settings) -> Iterator[GroupOffsets]:
    offsets = GroupOffsets(settings, settings.kafka_consumer_group)
    yield offsets
    offsets.close()


@pytest.fixture
def topic(settings: Settings, admin: KafkaAdmin) -> str:
    """A topic of its own with four partitions."""
    name = settings.topic("letters")
    admin.create(name, partitions=4, replication=1, config=TOPIC_CONFIG)
    return name


@pytest.fixture
def producer(settings: Settings) -> Iterator[EventProducer]:
    producer = EventProducer(settings, "test")
    yield producer
    producer.close(5)


class Member:
    """A consumer of a group, what happened to its partitions, and what it read."""

    def __init__(self, settings: Settings, topic: str) -> None:
        self.assigned: set[Partition] = set()
        self.read: list[ReceivedRecord] = []
        self.ends: dict[Partition, int] = {}
        self.restarts: list[Restart] = []
        self.committed: dict[Partition, int] = {}
        self.on_revoked: Callable[[list[Partition]], None] = lambda _: None
        self.consumer = EventConsumer(
            settings,
            [topic],
            settings.kafka_consumer_group,
            on_assigned=self.assigned.update,
            on_revoked=self._revoked,
            on_lost=self.assigned.difference_update,
            on_restarted=self.restarts.append,
            on_committed=self._committed,
        )

    def _revoked(self, partitions: list[Partition]) -> None:
        self.on_revoked(partitions)
        self.assigned.difference_update(partitions)

    def _committed(self, offsets: Mapping[Partition, int], error: ServiceError | None) -> None:
        assert error is None
        self.committed |= offsets

    def commit(self, offsets: Mapping[Partition, int]) -> None:
        """Commit, and wait for the answer."""
        self.consumer.commit(offsets)
        self.poll_until(lambda: not self.consumer.unanswered())

    def poll_until(self, condition: Callable[[], bool], timeout: float = PATIENCE) -> None:
        deadline = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < deadline, f"read {len(self.read)}, assigned {self.assigned}"
            self.read += self.consumer.poll(100, 0.05)
            self.ends |= self.consumer.take_ends()

    def __enter__(self) -> "Member":
        return self

    def __exit__(self, *_: object) -> None:
        self.consumer.close()


def _records(topic: str, count: int, key: bytes | None = None) -> list[OutgoingRecord]:
    return [
        OutgoingRecord(
            topic=topic, key=key or b"key %d" % n, value=b"%d" % n, headers=(("n", b"%d" % n), ("n", b"2"))
        )
        for n in range(count)
    ]


def test_a_record_arrives_as_it_was_sent(settings: Settings, topic: str, producer: EventProducer) -> None:
    """Key, value, headers (in order, a name twice) and the time of production come through."""
    before = time.time() * 1000
    assert producer.emit(_records(topic, 1), PATIENCE) == [None]
    with Member(settings, topic) as member:
        member.poll_until(lambda: bool(member.read))
    [message] = member.read
    assert (message.topic, message.offset) == (topic, 0)
    assert (message.key, message.value) == (b"key 0", b"0")
    assert message.headers == (("n", b"0"), ("n", b"2"))
    assert before - 1000 <= message.timestamp_ms <= time.time() * 1000 + 1000


def test_empty_keys_and_values_are_told_from_none(
    settings: Settings, topic: str, producer: EventProducer
) -> None:
    """A tombstone stays a tombstone, an empty value an empty value."""
    sent = [
        OutgoingRecord(topic=topic, key=None, value=b""),
        OutgoingRecord(topic=topic, key=b"", value=None),
    ]
    assert producer.emit(sent, PATIENCE) == [None, None]
    with Member(settings, topic) as member:
        member.poll_until(lambda: len(member.read) == 2)
    assert {(m.key, m.value) for m in member.read} == {(None, b""), (b"", None)}


def test_records_of_one_key_keep_their_order(settings: Settings, topic: str, producer: EventProducer) -> None:
    """One key is one partition, read in the order it was written."""
    assert producer.emit(_records(topic, 200, key=b"same"), PATIENCE) == [None] * 200
    with Member(settings, topic) as member:
        member.poll_until(lambda: len(member.read) == 200)
    assert len({message.partition for message in member.read}) == 1
    assert [message.value for message in member.read] == [b"%d" % n for n in range(200)]


def test_keys_go_where_the_java_clients_put_them(
    settings: Settings, topic: str, producer: EventProducer
) -> None:
    """A key's partition is Java's murmur2 of it, so producers of both kinds agree."""
    keys = [
        b"21",
        b"foobar",
        b"a-little-bit-long-string",
        b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8",
    ]
    producer.emit([OutgoingRecord(topic=topic, key=key, value=b"") for key in keys], PATIENCE)
    with Member(settings, topic) as member:
        member.poll_until(lambda: len(member.read) == len(keys))
    assert {message.key: message.partition for message in member.read} == {
        key: (_murmur2(key) & 0x7FFFFFFF) % 4 for key in keys
    }


def _murmur2(data: bytes) -> int:
    """org.apache.kafka.common.utils.Utils.murmur2, whose test vectors are checked here."""
    m, mask = 0x5BD1E995, 0xFFFFFFFF
    h = (0x9747B28C ^ len(data)) & mask
    whole = len(data) // 4 * 4
    for at in range(0, whole, 4):
        k = int.from_bytes(data[at : at + 4], "little") * m & mask
        k = (k ^ k >> 24) * m & mask
        h = h * m & mask ^ k
    if rest := data[whole:]:
        h = (h ^ int.from_bytes(rest, "little")) * m & mask
    h = (h ^ h >> 13) * m & mask
    return h ^ h >> 15


def test_murmur2_is_javas() -> None:
    """The reference used above gives the vectors of Kafka's own UtilsTest."""
    assert _murmur2(b"21") == -973932308 & 0xFFFFFFFF
    assert _murmur2(b"foobar") == -790332482 & 0xFFFFFFFF
    assert _murmur2(b"abc") == 479470107


def test_a_record_too_large_is_refused_and_the_others_arrive(
    settings: Settings, topic: str, producer: EventProducer
) -> None:
    """One refusal does not touch its neighbours."""
    large = OutgoingRecord(topic=topic, key=b"k", value=os.urandom(9 * 1024 * 1024))
    small = OutgoingRecord(topic=topic, key=b"k", value=b"small")
    first, second, third = producer.emit([small, large, small], PATIENCE)
    assert first is None
    assert isinstance(second, MessageRefusedError)
    assert third is None


def test_a_broker_that_is_away_is_unavailable_and_close_does_not_wait(
    services: Services, make_settings: MakeSettings
) -> None:
    """No broker: emit answers within its timeout, close within its own, and every callback is called."""
    settings = make_settings(services, KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1")
    producer = EventProducer(settings, "test")
    answers: list[ServiceError | None] = []
    producer.produce(_records("t", 1)[0], answers.append)
    [error] = producer.emit(_records("t", 1), 0.2)
    assert isinstance(error, ServiceUnavailableError)
    started = time.monotonic()
    # Errors that wait for their callback count, too: rd_kafka_outq_len, rdkafka.h.
    assert producer.close(0.2) >= 2
    assert time.monotonic() - started < 15
    assert [type(answer) for answer in answers] == [ServiceUnavailableError]


def test_a_record_without_an_answer_is_waited_for_and_not_produced_again(
    settings: Settings, topic: str
) -> None:
    """However often it is emitted: no second copy, and nothing of its key arrives before it."""
    producer = OrderedProducer(settings, "test")
    late: list[OutgoingRecord] = []
    keys = (b"same %d" % n for n in itertools.count())
    while not late:  # a thread that waited for its turn may find all of them answered
        key = next(keys)
        records = _records(topic, 50, key=key)
        answers = producer.emit(records, 0.0)
        late = [record for record, error in zip(records, answers, strict=True) if error is not None]
    assert producer.emit(late, PATIENCE) == [None] * len(late)
    with Member(settings, topic) as member:
        member.poll_until(lambda: sum(message.key == key for message in member.read) >= 50)
        assert producer.emit(_records(topic, 1, key=b"last"), PATIENCE) == [None]
        member.poll_until(lambda: member.read[-1].key == b"last")
    producer.close(5)
    assert [message.value for message in member.read if message.key == key] == [b"%d" % n for n in range(50)]


def test_a_callback_that_raises_does_not_stop_the_producer(topic: str, producer: EventProducer) -> None:
    """The poll thread outlives what it calls."""
    raised = threading.Event()

    def fail(_: ServiceError | None) -> None:
        raised.set()
        raise RuntimeError("a bug of the caller")

    producer.produce(_records(topic, 1)[0], fail)
    assert raised.wait(PATIENCE)
    assert producer.emit(_records(topic, 1), PATIENCE) == [None]


def test_many_threads_share_a_producer(
    settings: Settings, topic: str, producer: EventProducer, offsets: GroupOffsets
) -> None:
    """Each caller gets the answers of its own records."""
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: producer.emit(_records(topic, 250), PATIENCE), range(4)))
    assert answers == [[None] * 250] * 4
    assert sum(high for _, high in offsets.watermarks([topic]).values()) == 1000


def test_nothing_is_committed_by_itself(settings: Settings, topic: str, producer: EventProducer) -> None:
    """A member that read and left without committing leaves all to the next one."""
    producer.emit(_records(topic, 10), PATIENCE)
    for _ in range(2):
        with Member(settings, topic) as member:
            member.poll_until(lambda: len(member.read) >= 10)
        assert len(member.read) == 10


def test_the_next_member_starts_at_the_committed_offsets(
    settings: Settings, topic: str, producer: EventProducer, offsets: GroupOffsets
) -> None:
    """Committed records are not read again, uncommitted ones are; lag counts them."""
    producer.emit(_records(topic, 10, key=b"same"), PATIENCE)
    with Member(settings, topic) as first:
        first.poll_until(lambda: len(first.read) == 10)
        at = Partition(topic, first.read[0].partition)
        first.commit({at: 7})
    assert offsets.committed([at]) == {at: 7}
    assert offsets.lag([topic])[at] == 3
    with Member(settings, topic) as second:
        second.poll_until(lambda: len(second.read) >= 3)
    assert [message.offset for message in second.read] == [7, 8, 9]


def test_a_paused_partition_is_silent_until_it_is_resumed(
    settings: Settings, topic: str, producer: EventProducer
) -> None:
    """Polling goes on while a partition is paused; nothing is lost or twice after it."""
    producer.emit(_records(topic, 5, key=b"same"), PATIENCE)
    with Member(settings, topic) as member:
        member.poll_until(lambda: len(member.read) == 5)
        at = Partition(topic, member.read[0].partition)
        member.consumer.pause([at])
        producer.emit(_records(topic, 5, key=b"same"), PATIENCE)
        assert [m for _ in range(10) for m in member.consumer.poll(10, 0.1)] == []
        member.consumer.resume([at])
        member.poll_until(lambda: len(member.read) == 10)
    assert [message.offset for message in member.read] == list(range(10))


def test_two_members_share_and_commit_while_revoking(
    settings: Settings, topic: str, producer: EventProducer, offsets: GroupOffsets
) -> None:
    """A second member takes partitions over; what the first commits in on_revoked holds.

    What the first had paused when it went is read again when it comes back.
    """
    producer.emit(_records(topic, 40), PATIENCE)
    with Member(settings, topic) as first:
        first.poll_until(lambda: len(first.read) == 40)
        first.consumer.pause(first.assigned)
        ends = {Partition(m.topic, m.partition): m.offset + 1 for m in first.read}
        first.on_revoked = lambda partitions: first.consumer.commit(
            {at: ends[at] for at in partitions if at in ends}
        )
        stop = threading.Event()
        with Member(settings, topic) as second:
            with ThreadPoolExecutor(1) as pool:
                reading = pool.submit(second.poll_until, stop.is_set)
                try:
                    first.poll_until(lambda: bool(second.assigned) and len(first.assigned) < 4)
                    assert first.assigned.isdisjoint(second.assigned)
                finally:
                    stop.set()
                reading.result()
            taken = set(second.assigned)
        assert second.read == []
        producer.emit(_records(topic, 40), PATIENCE)
        first.poll_until(lambda: {Partition(m.topic, m.partition) for m in first.read[40:]} == taken)
    committed = offsets.committed(ends)
    assert {at: committed.get(at) for at in taken & ends.keys()} == {
        at: ends[at] for at in taken & ends.keys()
    }


def test_a_consumer_without_brokers_closes_soon(services: Services, make_settings: MakeSettings) -> None:
    """Polling an absent cluster gives nothing, and close does not wait for it."""
    settings = make_settings(services, KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1")
    started = time.monotonic()
    with Member(settings, "t") as member:
        assert member.consumer.poll(10, 0.2) == []
    assert time.monotonic() - started < 30


def test_creating_a_topic_twice_is_one_topic(settings: Settings, admin: KafkaAdmin) -> None:
    """True when made, False when it was there."""
    name = settings.topic("twice")
    made = [admin.create(name, partitions=4, replication=1, config=TOPIC_CONFIG) for _ in range(2)]
    assert made == [True, False]
    assert admin.topics()[name].partitions == 4


def test_asking_for_topics_makes_none(settings: Settings, admin: KafkaAdmin, offsets: GroupOffsets) -> None:
    """Watermarks, lag and topics of a name that does not exist leave it so."""
    name = settings.topic("absent")
    assert offsets.watermarks([name]) == {}
    assert offsets.lag([name]) == {}
    assert name not in admin.topics()


def test_a_clients_fork_makes_its_own(settings: Settings, topic: str, producer: EventProducer) -> None:
    """A producer used before a fork emits in the child too, and the parent's goes on."""
    assert producer.emit(_records(topic, 1), PATIENCE) == [None]
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = 0 if producer.emit(_records(topic, 1), PATIENCE) == [None] else 1
            producer.close(5)
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert producer.emit(_records(topic, 1), PATIENCE) == [None]


class TestOnRealKafka:
    """Behaviour that the mock cluster has no requests for."""

    @pytest.fixture
    def services(self, local_services: Services) -> Services:
        return local_services

    def test_configuration_is_read_and_changed(self, topic: str, admin: KafkaAdmin) -> None:
        """Only what is given changes."""
        before = admin.configs([topic])[topic]
        assert before["retention.ms"] == "3600000"
        admin.configure(topic, {"max.message.bytes": "2000000"})
        assert admin.configs([topic])[topic] == before | {"max.message.bytes": "2000000"}

    def test_growing_is_seen(self, topic: str, admin: KafkaAdmin) -> None:
        """A topic can be grown; fewer partitions are refused."""
        admin.grow(topic, 6)
        assert admin.topics()[topic].partitions == 6
        with pytest.raises(ServiceRefusedError, match=topic):
            admin.grow(topic, 2)

    def test_a_missing_topic_is_refused(
        self, settings: Settings, admin: KafkaAdmin, producer: EventProducer
    ) -> None:
        """Emitting to it, and consuming it, says so and names the mend."""
        [error] = producer.emit(_records(settings.topic("absent"), 1), PATIENCE)
        assert isinstance(error, ServiceRefusedError)
        assert "pipeline provision" in str(error)
        with (
            Member(settings, settings.topic("absent")) as member,
            pytest.raises(ServiceRefusedError, match="absent"),
        ):
            member.poll_until(lambda: False)

    def test_a_record_over_the_topics_own_limit_is_refused(
        self, topic: str, admin: KafkaAdmin, producer: EventProducer
    ) -> None:
        """The broker's refusal is permanent for that record only."""
        large = OutgoingRecord(topic=topic, key=b"k", value=os.urandom(3 * 1024 * 1024))
        small = OutgoingRecord(topic=topic, key=b"k", value=b"small")
        assert [type(e) for e in producer.emit([small, large, small], PATIENCE)] == [
            type(None),
            MessageRefusedError,
            type(None),
        ]

    def test_the_end_is_reached_behind_transaction_markers(
        self, settings: Settings, topic: str, offsets: GroupOffsets
    ) -> None:
        """Markers and aborted records are no events: committing the end leaves no lag."""
        at = Partition(topic, 0)
        producer = Producer(
            {"bootstrap.servers": settings.kafka_bootstrap_servers, "transactional.id": settings.service_name}
        )
        producer.init_transactions(PATIENCE)
        for value, end in ((b"1", producer.commit_transaction), (b"2", producer.abort_transaction)):
            producer.begin_transaction()
            producer.produce(topic, value, partition=0)
            producer.flush(PATIENCE)
            end(PATIENCE)
        # Two records and two markers; the last one may be written after the answer to the transaction's end.
        high = 4
        wait_until(lambda: offsets.watermarks([topic])[at][1] == high, "the last marker")
        with Member(settings, topic) as member:
            member.poll_until(lambda: member.ends.get(at) == high)
            assert [record.value for record in member.read] == [b"1"]
            member.commit({at: high})
            assert member.consumer.unread()[at] == 0
        assert offsets.lag([topic])[at] == 0

    def test_a_member_leaves_once_its_last_commit_is_answered(
        self, settings: Settings, topic: str, producer: EventProducer
    ) -> None:
        """The next member has its partitions long before the session ends."""
        producer.emit(_records(topic, 3, key=b"same"), PATIENCE)
        with Member(settings, topic) as first:
            first.poll_until(lambda: len(first.read) == 3)
            first.commit({Partition(topic, first.read[0].partition): 3})
        wait_until(lambda: not members(settings), "the first has left", SESSION_TIMEOUT / 2)
        with Member(settings, topic) as second:
            second.poll_until(lambda: bool(second.assigned))

    def test_records_that_retention_deleted_before_they_were_read_are_counted(
        self, settings: Settings, topic: str, producer: EventProducer
    ) -> None:
        """The member goes on with the first record that is left, and reports how many are not."""
        producer.emit(_records(topic, 20, key=b"same"), PATIENCE)
        with Member(settings, topic) as first:
            first.poll_until(lambda: len(first.read) == 20)
            at = Partition(topic, first.read[0].partition)
            first.commit({at: 5})
        vendor = AdminClient({"bootstrap.servers": settings.kafka_bootstrap_servers})
        for deleted in vendor.delete_records([TopicPartition(*at, 12)]).values():
            deleted.result(PATIENCE)
        with Member(settings, topic) as second:
            second.poll_until(lambda: len(second.read) == 8)
        assert [record.offset for record in second.read] == list(range(12, 20))
        assert second.restarts == [Restart(partition=at, reason="expired", lost=7)]

    def test_a_topic_made_again_is_read_from_its_first_record(
        self, settings: Settings, topic: str, admin: KafkaAdmin, producer: EventProducer
    ) -> None:
        """While a member reads it, and when the offset that the group has is an earlier topic's."""
        producer.emit(_records(topic, 10, key=b"same"), PATIENCE)
        with Member(settings, topic) as first:
            first.poll_until(lambda: len(first.read) == 10)
            at = Partition(topic, first.read[0].partition)
            _make_again(settings, admin, topic)
            producer.emit(_records(topic, 15, key=b"same"), PATIENCE)
            first.poll_until(lambda: {record.offset for record in first.read[10:]} == set(range(15)))
            assert Restart(partition=at, reason="replaced") in first.restarts
            first.commit({at: 15})
            _make_again(settings, admin, topic)
            # As a bridge does whose last events were settled only now.
            first.commit({at: 15})
        producer.emit(_records(topic, 20, key=b"same"), PATIENCE)
        with Member(settings, topic) as second:
            second.poll_until(lambda: {record.offset for record in second.read} == set(range(20)))
            second.commit({at: 20})
        with Member(settings, topic) as third:
            third.poll_until(lambda: at in third.ends)
            assert third.read == []

    def test_a_paused_partition_of_a_topic_made_again_is_read(
        self, settings: Settings, topic: str, admin: KafkaAdmin, producer: EventProducer
    ) -> None:
        """A restart ends the pause: the one that paused it begins anew with it."""
        producer.emit(_records(topic, 10, key=b"same"), PATIENCE)
        with Member(settings, topic) as member:
            member.poll_until(lambda: len(member.read) == 10)
            at = Partition(topic, member.read[0].partition)
            member.consumer.pause([at])
            _make_again(settings, admin, topic)
            producer.emit(_records(topic, 15, key=b"same"), PATIENCE)
            member.poll_until(lambda: {record.offset for record in member.read[10:]} == set(range(15)))


def _make_again(settings: Settings, admin: KafkaAdmin, topic: str) -> None:
    """Delete a topic and create it at once under its name."""
    vendor = AdminClient({"bootstrap.servers": settings.kafka_bootstrap_servers})
    vendor.delete_topics([topic])[topic].result(PATIENCE)
    wait_until(lambda: admin.create(topic, partitions=4, replication=1, config=TOPIC_CONFIG), "its deletion")


def _produce_with_header(settings: Settings, topic: str, name: bytes, values: list[bytes]) -> None:
    """Write a header whose name is any bytes, as a client in C may; Python's clients cannot."""
    (path,) = Path(confluent_kafka.__file__).parents[1].glob("confluent_kafka.libs/librdkafka*")
    kafka, pointer, text = ctypes.CDLL(str(path)), ctypes.c_void_p, ctypes.create_string_buffer(512)
    kafka.rd_kafka_conf_new.restype = kafka.rd_kafka_new.restype = pointer
    configuration = pointer(kafka.rd_kafka_conf_new())
    servers = settings.kafka_bootstrap_servers.encode()
    assert kafka.rd_kafka_conf_set(configuration, b"bootstrap.servers", servers, text, 512) == 0, text.value
    producer = pointer(kafka.rd_kafka_new(0, configuration, text, 512))
    assert producer, text.value
    size = ctypes.c_size_t
    try:
        for value in values:
            # RD_KAFKA_V_TOPIC, _VALUE, _MSGFLAGS (copy the value), _HEADER, _END: rdkafka.h.
            arguments = (1, topic.encode(), 4, value, size(len(value)), 7, 2, 9, name, b"1", size(1), 0)
            assert kafka.rd_kafka_producev(producer, *arguments) == 0
        assert kafka.rd_kafka_flush(producer, 30_000) == 0
    finally:
        kafka.rd_kafka_destroy(producer)


def test_a_header_that_the_client_cannot_read_stops_no_reader(
    settings: Settings, topic: str, producer: EventProducer
) -> None:
    """A name that is not UTF-8: each record comes with its value, and what cannot be read is said.

    Many of each, since Python calls in another way what it has called often.
    """
    odd = [b"odd %d" % n for n in range(100)]
    _produce_with_header(settings, topic, b"caf\xe9", odd)
    assert producer.emit(_records(topic, 100), PATIENCE) == [None] * 100
    with Member(settings, topic) as member:
        member.poll_until(lambda: len(member.read) == 200)
    read = {message.value: message.headers for message in member.read}
    for value in odd:
        ((name, why),) = read.pop(value)
        assert name == UNREADABLE
        assert b"utf-8" in why
    assert read == {record.value: record.headers for record in _records(topic, 100)}
