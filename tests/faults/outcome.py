"""The outcome: what came out on topics, queues and table, read with bare clients that know no engine."""

import json
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import boto3
from boto3.dynamodb.types import TypeDeserializer
from confluent_kafka import Consumer, KafkaException, TopicPartition

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_sqs import SQSClient

_NUMBERS = TypeDeserializer()

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Read:
    """A record of a topic."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Mapping[str, bytes]

    @property
    def data(self) -> Any:
        """Its data."""
        return json.loads(self.value or b"null")

    @property
    def event_id(self) -> str:
        """Its CloudEvents id."""
        return self.headers.get("ce_id", b"").decode()

    @property
    def job_id(self) -> str:
        """Its job's id."""
        return self.headers.get("ce_jobid", b"").decode()


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """All that can be seen of a service from outside."""

    #: By logical topic, in the order of each partition.
    records: Mapping[str, list[Read]]
    #: Bodies and attributes of what is on the dead-letter queue.
    letters: list[Mapping[str, Any]]
    #: The table, by pk and sk.
    items: dict[tuple[str, str], dict[str, Any]]
    #: What user code left behind, in order.
    effects: list[dict[str, Any]]
    #: Messages available, in flight, delayed on the task queue.
    depth: tuple[int, int, int]
    #: Events that the group has not committed yet, by logical topic.
    lag: Mapping[str, int] = field(default_factory=dict)


@dataclass(kw_only=True)
class Observer:
    """Looks at one service from outside."""

    bootstrap: str
    prefix: str
    group: str
    queue_url: str
    dlq_url: str
    table: str
    #: Logical topics that the bridge consumes, and those that are written.
    consumed: tuple[str, ...]
    written: tuple[str, ...]
    effects_file: Path
    #: boto3's arguments for each client.
    aws: Mapping[str, Mapping[str, Any]]

    def __post_init__(self) -> None:
        self._sqs: SQSClient = boto3.session.Session().client("sqs", **self.aws["sqs"])
        self._dynamodb: DynamoDBClient = boto3.session.Session().client("dynamodb", **self.aws["dynamodb"])
        # One consumer that is in no group, and one that asks what the bridge's group committed.
        kafka = {"bootstrap.servers": self.bootstrap, "log_level": 0}
        self._reader = Consumer({**kafka, "group.id": f"{self.group}-observer"})
        self._member = Consumer({**kafka, "group.id": self.group})
        self._read: dict[str, list[Read]] = {}
        self._next: dict[tuple[str, int], int] = {}
        self._letters: dict[str, Mapping[str, Any]] = {}

    def close(self) -> None:
        """Let go."""
        self._reader.close()
        self._member.close()

    def look(self) -> Outcome:
        """Everything as it is now."""
        return Outcome(
            records={name: self.records(name) for name in self.written},
            letters=self.letters(),
            items=self.items(),
            effects=self.effects(),
            depth=self.depth(),
            lag=self.lag(),
        )

    # ─── Kafka ───

    def records(self, name: str) -> list[Read]:
        """All records of a topic. What was read before is not read again."""
        topic, found = self.prefix + name, self._read.setdefault(name, [])
        ends = {p: self._ends(topic, p)[1] for p in self._partitions(topic)}
        wanted = {p: end for p, end in ends.items() if self._next.get((topic, p), 0) < end}
        if not wanted:
            return found
        self._reader.assign([TopicPartition(topic, p, self._next.get((topic, p), 0)) for p in wanted])
        deadline = time.monotonic() + 60
        while any(self._next.get((topic, p), 0) < end for p, end in wanted.items()):
            assert time.monotonic() < deadline, f"topic {topic} cannot be read"
            for message in self._reader.consume(1000, 0.2):
                if message.error():
                    continue
                found.append(_read(message))
                self._next[topic, found[-1].partition] = found[-1].offset + 1
        self._reader.unassign()
        return found

    def lag(self) -> dict[str, int]:
        """How many events of each consumed topic are not committed."""
        found = {}
        for name in self.consumed:
            topic = self.prefix + name
            asked = [TopicPartition(topic, p) for p in self._partitions(topic)]
            answer = _answer(partial(self._member.committed, asked, 10))
            committed = {each.partition: each.offset for each in answer}
            found[name] = sum(
                high - max(low, committed[p]) for p in committed for low, high in [self._ends(topic, p)]
            )
        return found

    def written_so_far(self) -> int:
        """How many records all consumed topics have: grows while anything is emitted."""
        topics = [self.prefix + name for name in self.consumed]
        return sum(self._ends(topic, p)[1] for topic in topics for p in self._partitions(topic))

    def _partitions(self, topic: str) -> list[int]:
        return list(_answer(lambda: self._reader.list_topics(topic, 10)).topics[topic].partitions or ())

    def _ends(self, topic: str, partition: int) -> tuple[int, int]:
        asked = TopicPartition(topic, partition)
        ends = _answer(lambda: self._reader.get_watermark_offsets(asked, 10))
        assert ends is not None, f"no answer about {topic}"
        return ends

    # ─── SQS ───

    def depth(self) -> tuple[int, int, int]:
        """Available, in flight, delayed."""
        answer: Mapping[Any, str] = self._sqs.get_queue_attributes(
            QueueUrl=self.queue_url, AttributeNames=["All"]
        )["Attributes"]
        names = ("", "NotVisible", "Delayed")
        available, hidden, delayed = (int(answer[f"ApproximateNumberOfMessages{name}"]) for name in names)
        return available, hidden, delayed

    def letters(self) -> list[Mapping[str, Any]]:
        """What is or was on the dead-letter queue when looked at; it stays there."""
        handles = []
        while answer := self._receive_letters():
            self._letters |= {each["MessageId"]: each for each in answer}
            handles += [each["ReceiptHandle"] for each in answer]
        for handle in handles:
            # In sight again at once, for whoever redrives them.
            self._sqs.change_message_visibility(
                QueueUrl=self.dlq_url, ReceiptHandle=handle, VisibilityTimeout=0
            )
        return list(self._letters.values())

    def _receive_letters(self) -> list[Any]:
        answer = self._sqs.receive_message(
            QueueUrl=self.dlq_url,
            MaxNumberOfMessages=10,
            VisibilityTimeout=30,
            WaitTimeSeconds=0,
            MessageAttributeNames=["All"],
        )
        return list(answer.get("Messages", ()))

    def send_raw(self, body: str) -> None:
        """Put any text on the task queue."""
        unique = uuid.uuid4().hex
        self._sqs.send_message(
            QueueUrl=self.queue_url, MessageBody=body, MessageGroupId=unique, MessageDeduplicationId=unique
        )

    # ─── DynamoDB ───

    def items(self) -> dict[tuple[str, str], dict[str, Any]]:
        """The whole table."""
        found: dict[tuple[str, str], dict[str, Any]] = {}
        for page in self._dynamodb.get_paginator("scan").paginate(TableName=self.table, ConsistentRead=True):
            for item in page["Items"]:
                plain = {name: _NUMBERS.deserialize(value) for name, value in item.items()}
                found[plain["pk"], plain["sk"]] = plain
        return found

    # ─── User code ───

    def effects(self) -> list[dict[str, Any]]:
        """The lines that runs left."""
        if not self.effects_file.exists():
            return []
        return [json.loads(line) for line in self.effects_file.read_text().splitlines()]


def _answer(call: Callable[[], T]) -> T:
    """What Kafka says; asked again while a broker that was away comes up."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return call()
        except KafkaException:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def _read(message: Any) -> Read:
    headers: Iterable[tuple[str, bytes]] = message.headers() or ()
    return Read(
        topic=message.topic(),
        partition=message.partition(),
        offset=message.offset(),
        key=message.key(),
        value=message.value(),
        headers=dict(headers),
    )
