"""The outcome of a fault: topics, queues and table, read with bare clients that do not use the engine."""

import json
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import boto3
from boto3.dynamodb.types import TypeDeserializer
from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_sqs import SQSClient

_NUMBERS = TypeDeserializer()

T = TypeVar("T")

#: Seconds that others may hold dead letters: a reader that dies holds them for a minute.
LOOKING = 75.0

#: A topic, as Kafka knows it, and the number of a partition.
Place = tuple[str, int]


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
    """The state of a service as seen from outside."""

    #: By logical topic, in the order of each partition.
    records: Mapping[str, list[Read]]
    #: Bodies and attributes of what is on the dead-letter queue.
    letters: list[Mapping[str, Any]]
    #: The table's items of these jobs and of all open ones, by pk and sk.
    items: dict[tuple[str, str], dict[str, Any]]
    #: The lines that user code wrote, in order.
    effects: list[dict[str, Any]]
    #: Messages available, in flight, delayed on the task queue.
    depth: tuple[int, int, int]
    #: Events that the group has not committed yet, by logical topic.
    lag: Mapping[str, int] = field(default_factory=dict)


@dataclass(kw_only=True)
class Observer:
    """Reads one service from outside."""

    service: str
    bootstrap: str
    prefix: str
    group: str
    queue_url: str
    dlq_url: str
    table: str
    #: Logical topics that the bridge consumes, and those that the service writes.
    consumed: tuple[str, ...]
    written: tuple[str, ...]
    effects_file: Path
    #: boto3's arguments for each client.
    aws: Mapping[str, Mapping[str, Any]]

    def __post_init__(self) -> None:
        self._sqs: SQSClient = boto3.session.Session().client("sqs", **self.aws["sqs"])
        self._dynamodb: DynamoDBClient = boto3.session.Session().client("dynamodb", **self.aws["dynamodb"])
        kafka: dict[str, Any] = {"bootstrap.servers": self.bootstrap, "log_level": 0}
        self._admin = AdminClient(kafka)
        # A consumer that is in no group, and one that asks what the bridge's group committed.
        # A client that looks for its place again after an outage goes back to the start: librdkafka's default
        # is the end, and what was written meanwhile would count as lost.
        self._reader = Consumer(
            {**kafka, "group.id": f"{self.group}-observer", "auto.offset.reset": "earliest"}
        )
        self._member = Consumer({**kafka, "group.id": self.group})
        self._read: dict[str, list[Read]] = {name: [] for name in self.written}
        self._next = dict.fromkeys(self._partitions(self.written), 0)
        self._reader.assign([TopicPartition(*place, 0) for place in self._next])
        self._consumed = self._partitions(self.consumed)
        self._letters: dict[str, Mapping[str, Any]] = {}
        #: where in the file the effects begin that are looked at
        self._effects_from = 0

    def close(self) -> None:
        """Let go."""
        self._reader.close()
        self._member.close()

    def forget(self) -> None:
        """Forget the output until now: later calls show only what follows."""
        self._catch_up()
        for records in self._read.values():
            records.clear()
        if self.effects_file.exists():
            self._effects_from = self.effects_file.stat().st_size

    def look(self, job_ids: Iterable[str]) -> Outcome:
        """Return the current state, with the table's items of these jobs and of all open jobs."""
        self._catch_up()
        return Outcome(
            records=self._read,
            letters=self.letters(),
            items=self.items(job_ids),
            effects=self.effects(),
            depth=self.depth(),
            lag=self.lag(),
        )

    # ─── Kafka ───

    def records(self, name: str) -> list[Read]:
        """Return the records of a topic."""
        self._catch_up()
        return self._read[name]

    def lag(self) -> dict[str, int]:
        """Return the number of uncommitted events of each consumed topic."""
        found = dict.fromkeys(self.consumed, 0)
        asked = [TopicPartition(*place) for place in self._consumed]
        ends = self._ends(self._consumed)
        for each in _answer(lambda: self._member.committed(asked, 10)):
            name = each.topic.removeprefix(self.prefix)
            found[name] += ends[each.topic, each.partition] - max(0, each.offset)
        return found

    def written_so_far(self) -> int:
        """Return the number of records of all consumed topics, which grows while events are emitted."""
        return sum(self._ends(self._consumed).values())

    def _catch_up(self) -> None:
        """Read all records that exist; each once, and none left out."""
        ends, deadline = self._ends(self._next), time.monotonic() + 60
        shorter = {place: end for place, end in ends.items() if end < self._next[place]}
        assert not shorter, f"Kafka has lost records: it ends at {shorter}, and {self._next} were read before"
        while any(self._next[place] < end for place, end in ends.items()):
            assert time.monotonic() < deadline, "the topics cannot be read"
            for message in self._reader.consume(500, 0.05):
                if message.error():
                    continue
                read = _read(message)
                place = read.topic, read.partition
                if read.offset < self._next[place]:
                    continue
                assert read.offset == self._next[place], f"{place}: {read.offset} follows {self._next[place]}"
                self._read[read.topic.removeprefix(self.prefix)].append(read)
                self._next[place] = read.offset + 1

    def _partitions(self, names: Iterable[str]) -> list[Place]:
        topics = [self.prefix + name for name in names]
        known = _answer(lambda: self._reader.list_topics(timeout=10)).topics
        return [(topic, partition) for topic in topics for partition in known[topic].partitions or ()]

    def _ends(self, places: Iterable[Place]) -> dict[Place, int]:
        """Return the end offset of each partition."""
        asked = {TopicPartition(*place): OffsetSpec.latest() for place in places}

        def ends() -> dict[Place, int]:
            # The leader is asked anew: librdkafka (2.16) names the leader's epoch that it knows, and when a
            # broker has come back with another it is refused (FENCED_LEADER_EPOCH) for minutes.
            self._admin.list_topics(timeout=10)
            answers = self._admin.list_offsets(asked, request_timeout=10)
            return {(each.topic, each.partition): answer.result().offset for each, answer in answers.items()}

        return _answer(ends)

    # ─── SQS ───

    def depth(self) -> tuple[int, int, int]:
        """Return the numbers of messages available, in flight and delayed on the task queue."""
        return self._depth_of(self.queue_url)

    def _depth_of(self, url: str) -> tuple[int, int, int]:
        answer: Mapping[Any, str] = self._sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])[
            "Attributes"
        ]
        names = ("", "NotVisible", "Delayed")
        available, hidden, delayed = (int(answer[f"ApproximateNumberOfMessages{name}"]) for name in names)
        return available, hidden, delayed

    def letters(self) -> list[Mapping[str, Any]]:
        """Return the messages seen on the dead-letter queue; they stay there."""
        deadline = time.monotonic() + LOOKING
        while not self._look_at_letters():
            assert time.monotonic() < deadline, "somebody holds dead letters and does not let go of them"
            time.sleep(0.2)
        return list(self._letters.values())

    def _look_at_letters(self) -> bool:
        """Whether all could be seen: another reader, such as a sweep, hides messages while it looks."""
        handles = []
        while answer := self._receive_letters():
            self._letters |= {each["MessageId"]: each for each in answer}
            handles += [each["ReceiptHandle"] for each in answer]
        waiting, hidden, delayed = self._depth_of(self.dlq_url)
        for handle in handles:
            # Visible again at once, for a redrive.
            self._sqs.change_message_visibility(
                QueueUrl=self.dlq_url, ReceiptHandle=handle, VisibilityTimeout=0
            )
        return waiting + hidden + delayed == len(handles)

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
        """Send any text to the task queue."""
        unique = uuid.uuid4().hex
        self._sqs.send_message(
            QueueUrl=self.queue_url, MessageBody=body, MessageGroupId=unique, MessageDeduplicationId=unique
        )

    # ─── DynamoDB ───

    def items(self, job_ids: Iterable[str]) -> dict[tuple[str, str], dict[str, Any]]:
        """Return the table's items of these jobs and their counters, and the record of every open job."""
        found: dict[tuple[str, str], dict[str, Any]] = {}
        for job_id in job_ids:
            self._query(found, f"{self.service}/J#{job_id}")
        for seal in [item for (_, sk), item in found.items() if sk.startswith("P#")]:
            self._query(found, f"{self.service}/L#{seal['split']}#top")
            for leaf in range(int(seal["n"]) // 256 + 1):
                self._query(found, f"{self.service}/L#{seal['split']}#0#{leaf}")
        for shard in range(4):
            for key in self._query({}, f"{self.service}/open#{shard}", IndexName="jobs-by-time"):
                self._query(found, key[0])
        return found

    def _query(self, found: dict[Any, Any], pk: str, **index: str) -> dict[Any, Any]:
        """Add the items under a key of the table, or of an index, to ``found``."""
        name = "ipk" if index else "pk"
        pages = self._dynamodb.get_paginator("query").paginate(
            TableName=self.table,
            KeyConditionExpression=f"{name} = :key",
            ExpressionAttributeValues={":key": {"S": pk}},
            ConsistentRead=not index,
            **index,  # type: ignore[arg-type]
        )
        for page in pages:
            for item in page["Items"]:
                plain = {name: _NUMBERS.deserialize(value) for name, value in item.items()}
                found[plain["pk"], plain["sk"]] = plain
        return found

    # ─── User code ───

    def effects(self) -> list[dict[str, Any]]:
        """Return the lines that runs wrote."""
        if not self.effects_file.exists():
            return []
        with self.effects_file.open() as lines:
            lines.seek(self._effects_from)
            # A line over the end of a memory page can be read when half of it is written.
            return [json.loads(line) for line in lines if line.endswith("\n")]


def _answer(call: Callable[[], T]) -> T:
    """Return Kafka's answer; ask again while a broker starts."""
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
