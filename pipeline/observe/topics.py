"""Topics and consumer groups as ``pipeline monitor kafka`` shows them. Reads only."""

import base64
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pipeline.author.registry import Registry
from pipeline.errors import ServiceError, ServiceUnavailableError
from pipeline.infra.needs import consumed_topics, topic_needs, topics_of_others
from pipeline.kafka import (
    Group,
    GroupOffsets,
    KafkaAdmin,
    Member,
    Partition,
    PartitionState,
    ReceivedRecord,
    describe_groups,
    list_groups,
    newest_records,
)
from pipeline.settings import Settings

#: The settings of a topic in a report: those that decide how long and how safely its records are kept.
REPORTED_CONFIG = (
    "retention.ms",
    "cleanup.policy",
    "compression.type",
    "min.insync.replicas",
    "max.message.bytes",
)

#: Seconds one request may take.
TIMEOUT = 10.0


@dataclass(frozen=True, kw_only=True)
class PartitionReport:
    """One partition of a topic."""

    partition: int
    #: Broker ids; a leader of -1: the partition is out of reach.
    leader: int
    replicas: tuple[int, ...]
    isr: tuple[int, ...]
    #: The first offset that is kept and the next one to be written; None while the cluster does not tell.
    low: int | None
    high: int | None


@dataclass(frozen=True, kw_only=True)
class RecordReport:
    """One record, as text."""

    topic: str
    partition: int
    offset: int
    #: ISO 8601, UTC.
    time: str
    key: str | None
    headers: Mapping[str, str]
    #: Parsed JSON, other text as a string, bytes as {"base64": …}; None for a tombstone.
    value: Any


@dataclass(frozen=True, kw_only=True)
class TopicReport:
    """One topic."""

    name: str
    partitions: tuple[PartitionReport, ...]
    #: ``REPORTED_CONFIG``; {} where the cluster does not tell it (librdkafka's mock).
    config: Mapping[str, str]
    #: The newest records; None: they were not asked for.
    records: tuple[RecordReport, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class GroupPartitionReport:
    """The progress of a group in one partition."""

    topic: str
    partition: int
    low: int
    high: int
    #: None: nothing is committed.
    committed: int | None
    lag: int
    #: The client.id of the member that it is assigned to.
    member: str | None


@dataclass(frozen=True, kw_only=True)
class GroupReport:
    """One consumer group."""

    name: str
    #: Kafka's word; "unknown" where the cluster does not tell.
    state: str
    members: tuple[Member, ...]
    partitions: tuple[GroupPartitionReport, ...]
    lag: int
    #: Why state and members are not known; None if they are, or if the cluster does not tell them.
    problem: str | None = None


@dataclass(frozen=True, kw_only=True)
class ClusterReport:
    """A cluster, with some of its topics and groups."""

    bootstrap_servers: str
    #: "host:port" by broker id.
    brokers: Mapping[int, str]
    topics: tuple[TopicReport, ...]
    groups: tuple[GroupReport, ...]


class KafkaMonitor:
    """Reads one cluster with a service's settings."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._admin = KafkaAdmin(settings, TIMEOUT)
        self._offsets = GroupOffsets(settings, settings.kafka_consumer_group, TIMEOUT)

    def brokers(self) -> dict[int, str]:
        """Return "host:port" by broker id."""
        return dict(self._admin.cluster().brokers)

    def topics(self, prefix: str = "") -> list[TopicReport]:
        """Return the topics whose names start with ``prefix``, by name."""
        found = {n: p for n, p in self._admin.cluster().topics.items() if n.startswith(prefix)}
        return self._reports(found)

    def service_topics(self, registry: Registry) -> list[TopicReport]:
        """Return the topics of this service, and those of others that it reads, that exist."""
        needed = {need.name for need in topic_needs(self._settings, registry)}
        needed |= topics_of_others(self._settings, registry).keys()
        return self._reports({n: p for n, p in self._admin.cluster().topics.items() if n in needed})

    def newest(self, topic: str, count: int) -> list[RecordReport]:
        """Return the newest records of a topic over all its partitions, the oldest of them first."""
        return [_record_report(record) for record in newest_records(self._settings, topic, count)]

    def group_names(self) -> list[str]:
        """Return the names of the cluster's groups."""
        return list_groups(self._settings, TIMEOUT)

    def service_group(self, registry: Registry) -> GroupReport:
        """Return the group of this service's bridges; see ``groups``."""
        [found] = self.groups([self._settings.kafka_consumer_group], registry)
        return found

    def groups(self, names: Sequence[str], registry: Registry | None = None) -> list[GroupReport]:
        """Return groups: their members, and their lag in each partition that they hold or have committed.

        With ``registry`` this service's group has every topic that its bridges consume: partitions without a
        commit count with all their records, as no member reads them yet.
        """
        try:
            described: Mapping[str, Group | ServiceError] = describe_groups(self._settings, names, TIMEOUT)
        except ServiceError as error:
            described = dict.fromkeys(names, error)
        consumed = consumed_topics(self._settings, registry) if registry else []
        own = self._settings.kafka_consumer_group
        return [self._group(name, described[name], consumed if name == own else ()) for name in names]

    def _group(self, name: str, found: Group | ServiceError, topics: Collection[str]) -> GroupReport:
        # Groups of the new protocol (KIP-848), and librdkafka's mock, refuse to be described.
        problem = str(found) if isinstance(found, ServiceUnavailableError) else None
        members = found.members if isinstance(found, Group) else ()
        holders = {partition: member.client_id for member in members for partition in member.partitions}
        offsets = GroupOffsets(self._settings, name, TIMEOUT)
        try:
            committed = offsets.committed(offsets.partitions())
            marks = offsets.watermarks({*topics, *(each.topic for each in (*committed, *holders))})
        finally:
            offsets.close()
        partitions = sorted({*committed, *holders, *(each for each in marks if each.topic in topics)})
        views = tuple(
            _group_partition_report(each, marks[each], committed.get(each), holders.get(each))
            for each in partitions
            if each in marks
        )
        return GroupReport(
            name=name,
            state=found.state if isinstance(found, Group) else "unknown",
            members=members,
            partitions=views,
            lag=sum(view.lag for view in views),
            problem=problem,
        )

    def _reports(self, topics: Mapping[str, Sequence[PartitionState]]) -> list[TopicReport]:
        marks, configs = self._marks(topics), self._admin.configs(topics)
        return [
            TopicReport(
                name=name,
                partitions=tuple(
                    _partition_report(at, marks.get(Partition(name, at.number))) for at in partitions
                ),
                config={key: configs[name][key] for key in REPORTED_CONFIG if key in configs.get(name, {})},
            )
            for name, partitions in sorted(topics.items())
        ]

    def _marks(self, topics: Collection[str]) -> dict[Partition, tuple[int, int]]:
        """Return the watermarks; {} if a partition has no leader, as Kafka then does not answer for any."""
        try:
            return self._offsets.watermarks(topics)
        except ServiceUnavailableError:
            return {}


def _partition_report(at: PartitionState, marks: tuple[int, int] | None) -> PartitionReport:
    low, high = marks or (None, None)
    return PartitionReport(
        partition=at.number, leader=at.leader, replicas=at.replicas, isr=at.in_sync, low=low, high=high
    )


def _group_partition_report(
    partition: Partition, marks: tuple[int, int], committed: int | None, member: str | None
) -> GroupPartitionReport:
    low, high = marks
    return GroupPartitionReport(
        topic=partition.topic,
        partition=partition.number,
        low=low,
        high=high,
        committed=committed,
        lag=max(0, high - max(low if committed is None else committed, low)),
        member=member,
    )


def _record_report(record: ReceivedRecord) -> RecordReport:
    return RecordReport(
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        time=datetime.fromtimestamp(record.timestamp_ms / 1000, UTC).isoformat(timespec="milliseconds"),
        key=None if record.key is None else record.key.decode(errors="backslashreplace"),
        headers={name: value.decode(errors="backslashreplace") for name, value in record.headers},
        value=_parse(record.value),
    )


def _parse(value: bytes | None) -> Any:
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
