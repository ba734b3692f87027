"""A partition is stuck if its records do not come although brokers have them; no other one is."""

from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from pipeline.kafka import EventConsumer, Partition, consumer, positions
from pipeline.kafka.stuck import LOOK_EVERY, STUCK_AFTER
from tests import builders

STUCK, OTHER = Partition("t", 0), Partition("t", 1)


class Cluster:
    """Brokers, and a client of them whose records a test queues."""

    def __init__(self) -> None:
        self.ends = {STUCK: 5, OTHER: 0}
        self.positions = {STUCK: 3, OTHER: 0}
        self.queue: list[Any] = []
        self.answers = True
        #: The partitions of each request for ends.
        self.asked: list[set[Partition]] = []

    def send(self, partition: Partition, error: KafkaError | None = None, offset: int = -1) -> None:
        """Let the client get a record, or an error, of a partition."""
        if error is None:
            offset = self.positions[partition]
        self.queue.append(
            SimpleNamespace(
                error=lambda: error,
                topic=lambda: partition.topic,
                partition=lambda: partition.number,
                offset=lambda: offset,
                timestamp=lambda: (0, 0),
                key=lambda: b"",
                value=lambda: b"",
                headers=list,
            )
        )

    # The consumer
    def consume(self, most: int, timeout: float) -> list[Any]:
        taken, self.queue = self.queue[:most], self.queue[most:]
        for answer in taken:
            if answer.error() is None:
                self.positions[Partition(answer.topic(), answer.partition())] = answer.offset() + 1
        return taken

    def assignment(self) -> list[TopicPartition]:
        return [TopicPartition(*partition) for partition in self.positions]

    def position(self, partitions: list[TopicPartition]) -> list[TopicPartition]:
        return [
            TopicPartition(at.topic, at.partition, self.positions[Partition(at.topic, at.partition)])
            for at in partitions
        ]

    def get_watermark_offsets(self, at: TopicPartition, cached: bool) -> tuple[int, int]:
        """Return what the last fetch saw: nothing behind the records that it brought."""
        assert cached, "no broker is asked"
        return 0, self.positions[Partition(at.topic, at.partition)]

    def subscribe(self, topics: list[str], **callbacks: Any) -> None:
        """Partitions are assigned from the start."""

    def pause(self, partitions: list[TopicPartition]) -> None:
        """The test sends no record of them."""

    resume = pause

    # The client for administration
    def list_offsets(self, partitions: dict[TopicPartition, Any], **_: Any) -> dict[TopicPartition, Any]:
        self.asked.append({Partition(at.topic, at.partition) for at in partitions})
        answers: dict[TopicPartition, Future[Any]] = {at: Future() for at in partitions}
        for at, answer in answers.items():
            if self.answers:
                answer.set_result(SimpleNamespace(offset=self.ends[Partition(at.topic, at.partition)]))
            else:
                answer.set_exception(KafkaException(KafkaError(KafkaError._TIMED_OUT)))
        return answers

    def describe_topics(self, *_: Any, **__: Any) -> dict[str, Any]:
        return {}


class Member:
    """A consumer on such a client, whose clock a test moves."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.now = 0.0
        self.consumer = EventConsumer(
            builders.settings(),
            ["t"],
            "group",
        )
        self.consumer._stuck._clock = lambda: self.now

    def turn(self) -> list[Partition]:
        """Turn the loop of a bridge once, and let time pass until the next look."""
        self.consumer.poll(500, 0)
        stuck = self.consumer.stuck()
        self.now += LOOK_EVERY
        return stuck

    def turns(self, seconds: float) -> list[Partition]:
        """Return the partitions that were stuck at any moment of so many seconds."""
        until, found = self.now + seconds, []
        while self.now < until:
            found += self.turn()
        return found


@pytest.fixture
def member(monkeypatch: pytest.MonkeyPatch) -> Member:
    cluster = Cluster()
    monkeypatch.setattr(consumer, "make_client", lambda *_: cluster)
    monkeypatch.setattr(positions, "make_client", lambda *_: cluster)
    return Member(cluster)


def test_a_partition_whose_records_do_not_come_is_stuck(member: Member) -> None:
    """After a minute in which every look found them, while the other partition flows."""
    member.turn()
    for _ in range(round(STUCK_AFTER / LOOK_EVERY)):
        member.cluster.send(OTHER)
        assert member.turn() == []
    member.cluster.send(OTHER)
    assert member.turn() == [STUCK]
    assert member.cluster.asked == [{STUCK}] * 4


def test_records_that_do_not_come_are_unread(member: Member) -> None:
    """To the end that a broker tells, as it grows; all are read once they come."""
    member.turns(2 * LOOK_EVERY)
    assert member.consumer.unread() == {STUCK: 2, OTHER: 0}
    member.cluster.ends[STUCK] = 9
    member.turns(LOOK_EVERY)
    assert member.consumer.unread() == {STUCK: 6, OTHER: 0}
    for _ in range(6):
        member.cluster.send(STUCK)
        member.consumer.poll(500, 0)
    assert member.consumer.unread() == {STUCK: 0, OTHER: 0}


def test_the_end_of_a_topic_that_was_replaced_does_not_count(member: Member) -> None:
    """The new one may be shorter."""
    member.turns(2 * LOOK_EVERY)
    member.consumer._forget([STUCK])
    assert member.consumer.unread() == {STUCK: 0, OTHER: 0}


def test_one_that_never_returned_a_record_is_stuck(member: Member) -> None:
    """As after a start in the middle of an outage."""
    member.cluster.positions[STUCK] = -1001
    assert STUCK in member.turns(2 * STUCK_AFTER)


def test_a_partition_at_its_end_is_not_stuck(member: Member) -> None:
    """Also where that is a transaction's marker, behind the last record."""
    member.cluster.positions[STUCK] = 4
    member.cluster.send(STUCK, KafkaError(KafkaError._PARTITION_EOF), offset=5)
    assert member.turns(3 * STUCK_AFTER) == []
    member.cluster.ends[STUCK] = 6
    assert STUCK in member.turns(2 * STUCK_AFTER)


def test_a_paused_partition_is_not_stuck(member: Member) -> None:
    """It counts from its resumption on."""
    member.turns(STUCK_AFTER)
    member.consumer.pause([STUCK])
    assert member.turns(3 * STUCK_AFTER) == []
    member.consumer.resume([STUCK])
    assert member.turns(STUCK_AFTER) == []
    assert STUCK in member.turns(STUCK_AFTER)


@pytest.mark.parametrize("sign", ["a record", "an error"])
def test_a_sign_of_life_begins_the_time_anew(member: Member, sign: str) -> None:
    """A client that reports an error tries again by itself."""
    member.turns(STUCK_AFTER)
    error = KafkaError(KafkaError._TRANSPORT) if sign == "an error" else None
    member.cluster.send(STUCK, error)
    assert member.turns(STUCK_AFTER) == []
    assert STUCK in member.turns(STUCK_AFTER)


def test_a_record_that_comes_with_the_answer_is_a_sign_of_life(member: Member) -> None:
    """It was polled between the question and the answer."""
    member.turns(STUCK_AFTER + LOOK_EVERY)
    asked: dict[TopicPartition, Future[Any]] = {}

    def list_offsets(partitions: dict[TopicPartition, Any], **_: Any) -> dict[TopicPartition, Any]:
        asked.update({at: Future() for at in partitions})
        return asked

    member.cluster.list_offsets = list_offsets  # type: ignore[method-assign]
    member.consumer.poll(500, 0)
    assert member.consumer.stuck() == []
    member.cluster.send(STUCK)
    member.consumer.poll(500, 0)
    for answer in asked.values():
        answer.set_result(SimpleNamespace(offset=5))
    assert asked
    assert member.consumer.stuck() == []


def test_without_brokers_no_partition_is_stuck(member: Member) -> None:
    """A client that waits for them is kept; the time begins when they answer again."""
    member.turns(STUCK_AFTER)
    member.cluster.answers = False
    assert member.turns(3 * STUCK_AFTER) == []
    member.cluster.answers = True
    assert member.turns(STUCK_AFTER) == []
    assert STUCK in member.turns(STUCK_AFTER)


def test_behind_a_full_queue_no_partition_is_stuck(member: Member) -> None:
    """Its records may wait there for their turn."""
    member.turns(STUCK_AFTER)
    for _ in range(500 * 10):
        member.cluster.send(OTHER)
    assert member.turns(9 * LOOK_EVERY) == []


def test_where_all_partitions_flow_no_broker_is_asked(member: Member) -> None:
    """A bridge under load asks for nothing."""
    member.turn()
    for _ in range(10):
        for partition in (STUCK, OTHER):
            member.cluster.send(partition)
        member.turn()
    assert member.cluster.asked == []
