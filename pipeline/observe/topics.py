"""Topics with their partitions and newest records, and how far consumer groups are behind."""

import base64
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from config.settings import Settings
from pipeline.errors import ServiceRefusedError, ServiceUnavailableError
from pipeline.kafka import KafkaAdmin, Member, Message, Partition, PartitionState, newest_messages
from pipeline.registry import Registry
from pipeline.topology import topic_needs

#: What is shown of a topic's configuration: what decides how long and how safely its records are kept.
SHOWN_CONFIG = (
    "retention.ms",
    "cleanup.policy",
    "compression.type",
    "min.insync.replicas",
    "max.message.bytes",
)

#: Seconds one request may take.
TIMEOUT = 10.0


@dataclass(frozen=True, kw_only=True)
class PartitionView:
    """One partition of a topic."""

    partition: int
    #: Broker ids; a leader of -1: out of reach.
    leader: int
    replicas: tuple[int, ...]
    isr: tuple[int, ...]
    #: The first offset kept, and the next one to be written; None while the cluster does not tell.
    low: int | None
    high: int | None


@dataclass(frozen=True, kw_only=True)
class TopicView:
    """One topic."""

    name: str
    partitions: tuple[PartitionView, ...]
    #: ``SHOWN_CONFIG``; {} where the cluster does not tell (librdkafka's mock).
    config: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class MessageView:
    """One record, as text."""

    topic: str
    partition: int
    offset: int
    #: ISO 8601, UTC.
    time: str
    key: str | None
    headers: Mapping[str, str]
    #: JSON as what it says, other text as a string, bytes as {"base64": …}; None for a tombstone.
    value: Any


@dataclass(frozen=True, kw_only=True)
class GroupPartitionView:
    """How far a group is in one partition."""

    topic: str
    partition: int
    low: int
    high: int
    #: None: nothing committed.
    committed: int | None
    lag: int
    #: The client.id of the member that holds it.
    member: str | None


@dataclass(frozen=True, kw_only=True)
class GroupView:
    """One consumer group."""

    name: str
    #: Kafka's word; "unknown" where the cluster does not tell.
    state: str
    members: tuple[Member, ...]
    partitions: tuple[GroupPartitionView, ...]
    lag: int


class KafkaMonitor:
    """Looks at one cluster with a service's settings."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._admin = KafkaAdmin(settings, TIMEOUT)

    def brokers(self) -> dict[int, str]:
        """ "host:port" by broker id."""
        return dict(self._admin.cluster().brokers)

    def topics(self, prefix: str = "") -> list[TopicView]:
        """The topics whose names start with ``prefix``, by name."""
        found = {n: p for n, p in self._admin.cluster().topics.items() if n.startswith(prefix)}
        return self._views(found)

    def service_topics(self, registry: Registry) -> list[TopicView]:
        """The topics of this service that exist."""
        needed = {need.name for need in topic_needs(self._settings, registry)}
        return self._views({n: p for n, p in self._admin.cluster().topics.items() if n in needed})

    def newest(self, topic: str, count: int) -> list[MessageView]:
        """The newest records of a topic over all its partitions, the oldest of them first."""
        return [_message_view(message) for message in newest_messages(self._settings, topic, count)]

    def group_names(self) -> list[str]:
        """All groups that the cluster tells of."""
        return self._admin.groups()

    def service_group(self, registry: Registry) -> GroupView:
        """The group of this service's bridges, which is to read every topic that its stages consume."""
        topics = [self._settings.topic(name) for name in registry.consumed_topics]
        return self.group(self._settings.kafka_consumer_group, topics)

    def group(self, name: str, topics: Collection[str] = ()) -> GroupView:
        """A group: its members, and its lag in each partition that it holds or has committed.

        And in those of ``topics``, all that is kept where it has committed nothing: nobody reads them yet.
        """
        try:
            found = self._admin.group(name)
            state, members = found.state, found.members
        except ServiceRefusedError:
            # Groups of the new protocol (KIP-848), and librdkafka's mock, do not answer this request.
            state, members = "unknown", ()
        committed = self._admin.committed(name)
        holders = {partition: member.client_id for member in members for partition in member.partitions}
        marks = self._admin.watermarks({*topics, *(each.topic for each in (*committed, *holders))})
        partitions = sorted({*committed, *holders, *(each for each in marks if each.topic in topics)})
        views = tuple(
            _group_partition(partition, marks[partition], committed.get(partition), holders.get(partition))
            for partition in partitions
            if partition in marks
        )
        return GroupView(
            name=name, state=state, members=members, partitions=views, lag=sum(view.lag for view in views)
        )

    def _views(self, topics: Mapping[str, Sequence[PartitionState]]) -> list[TopicView]:
        marks, configs = self._marks(topics), self._admin.configs(topics)
        return [
            TopicView(
                name=name,
                partitions=tuple(
                    _partition_view(at, marks.get(Partition(name, at.number))) for at in partitions
                ),
                config={key: configs[name][key] for key in SHOWN_CONFIG if key in configs.get(name, {})},
            )
            for name, partitions in sorted(topics.items())
        ]

    def _marks(self, topics: Iterable[str]) -> dict[Partition, tuple[int, int]]:
        """A partition without a leader keeps Kafka from answering for all: then the rest is still shown."""
        try:
            return self._admin.watermarks(topics)
        except ServiceUnavailableError:
            return {}


def _partition_view(at: PartitionState, marks: tuple[int, int] | None) -> PartitionView:
    low, high = marks or (None, None)
    return PartitionView(
        partition=at.number, leader=at.leader, replicas=at.replicas, isr=at.in_sync, low=low, high=high
    )


def _group_partition(
    partition: Partition, marks: tuple[int, int], committed: int | None, member: str | None
) -> GroupPartitionView:
    low, high = marks
    return GroupPartitionView(
        topic=partition.topic,
        partition=partition.number,
        low=low,
        high=high,
        committed=committed,
        lag=max(0, high - max(low if committed is None else committed, low)),
        member=member,
    )


def _message_view(message: Message) -> MessageView:
    return MessageView(
        topic=message.topic,
        partition=message.partition,
        offset=message.offset,
        time=datetime.fromtimestamp(message.timestamp_ms / 1000, UTC).isoformat(timespec="milliseconds"),
        key=None if message.key is None else message.key.decode(errors="backslashreplace"),
        headers={name: value.decode(errors="backslashreplace") for name, value in message.headers},
        value=_readable(message.value),
    )


def _readable(value: bytes | None) -> Any:
    if value is None:
        return None
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode()}
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
