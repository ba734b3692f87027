"""Answers to commits: each is told once, and none of them to another assignment than it belongs to."""

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from pipeline.errors import ServiceError, ServiceRefusedError, ServiceUnavailableError
from pipeline.kafka import EventConsumer, Partition
from pipeline.kafka import consumer as module
from tests import builders

P = Partition("t", 0)


class Client:
    """A Kafka client that answers when a test says so."""

    def __init__(self, configuration: dict[str, Any]) -> None:
        self.on_commit: Callable[[KafkaError | None, list[TopicPartition]], None] = configuration["on_commit"]
        self.asked: list[list[TopicPartition]] = []
        self.refuses: KafkaError | None = None
        self.closed = False

    def subscribe(self, topics: list[str], **callbacks: Callable[..., None]) -> None:
        self.callbacks = callbacks

    def commit(self, *, offsets: list[TopicPartition], asynchronous: bool) -> None:
        assert asynchronous
        if self.refuses:
            raise KafkaException(self.refuses)
        self.asked.append(offsets)

    def answer(self, error: KafkaError | None = None) -> None:
        """Answer the oldest commit."""
        self.on_commit(error, self.asked.pop(0))

    def lose(self) -> None:
        self.callbacks["on_lost"](self, [TopicPartition(*P)])

    def close(self) -> None:
        self.closed = True


class Member:
    """A consumer on such a client, and what it was told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.told: list[tuple[Mapping[Partition, int], ServiceError | None]] = []
        monkeypatch.setattr(module, "make_client", lambda _, configuration: Client(configuration))
        self.consumer = EventConsumer(
            builders.settings(),
            ["t"],
            "group",
            on_committed=lambda offsets, error: self.told.append((offsets, error)),
        )
        self.client: Client = self.consumer._consumer  # type: ignore[assignment]


@pytest.fixture
def member(monkeypatch: pytest.MonkeyPatch) -> Member:
    return Member(monkeypatch)


def test_an_answer_is_told_when_it_comes(member: Member) -> None:
    """Until then the commit counts as unanswered."""
    member.consumer.commit({P: 7})
    assert member.told == []
    assert member.consumer.unanswered() > 0
    member.client.answer()
    assert member.told == [({P: 7}, None)]
    assert member.consumer.unanswered() == 0


def test_a_failed_commit_tells_its_error(member: Member) -> None:
    """Answered later or refused at once: nothing is committed, and it may be tried again."""
    member.consumer.commit({P: 7})
    member.client.answer(KafkaError(KafkaError._TIMED_OUT))
    member.client.refuses = KafkaError(KafkaError._STATE)
    member.consumer.commit({P: 7})
    assert [offsets for offsets, _ in member.told] == [{}, {}]
    assert all(isinstance(error, ServiceUnavailableError) for _, error in member.told)
    assert member.consumer.unanswered() == 0


@pytest.mark.parametrize(
    "code", [KafkaError.ILLEGAL_GENERATION, KafkaError.REBALANCE_IN_PROGRESS, KafkaError.STALE_MEMBER_EPOCH]
)
def test_a_commit_in_a_rebalance_is_no_failure(member: Member, code: int) -> None:
    """Nothing is committed; the next commit, or that of the partitions that go, does it."""
    member.consumer.commit({P: 7})
    member.client.answer(KafkaError(code))
    assert member.told == [({}, None)]


def test_a_partition_of_its_own_error_is_not_committed(member: Member) -> None:
    """The others of the same commit are."""
    other = Partition("t", 1)
    member.consumer.commit({P: 7, other: 9})
    error = KafkaError(KafkaError.INVALID_PARTITIONS)
    # Only the client itself can make one with an error.
    refused: Any = SimpleNamespace(topic="t", partition=1, offset=9, error=error)
    member.client.on_commit(None, [member.client.asked[0][0], refused])
    [(offsets, told)] = member.told
    assert offsets == {P: 7}
    assert isinstance(told, ServiceRefusedError)


def test_an_answer_to_an_earlier_assignment_is_not_told(member: Member) -> None:
    """The partition came back, or its topic was made again: the offset would be taken for one of the new."""
    member.consumer.commit({P: 100})
    member.client.lose()
    member.consumer.commit({P: 3})
    member.client.answer()
    assert member.told == [({}, None)]
    member.client.answer()
    assert member.told[1:] == [({P: 3}, None)]


def test_a_member_without_an_answer_does_not_wait_to_leave(member: Member) -> None:
    """Closing would wait for brokers that do not answer."""
    member.consumer.commit({P: 7})
    member.consumer.close()
    assert not member.client.closed
