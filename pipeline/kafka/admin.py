"""Topics and groups: create, describe, change, and how far a group is behind."""

import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    OffsetSpec,
    ResourceType,
)

from config.settings import Settings
from pipeline.errors import ServiceRefusedError, ServiceUnavailableError
from pipeline.kafka.configuration import client_configuration
from pipeline.kafka.consumer import Partition
from pipeline.kafka.errors import distrust, kafka_error
from pipeline.kafka.security import made

#: Seconds one request may take.
TIMEOUT = 15.0

#: Seconds of a request after which is looked whether brokers refuse this client: it is told apart, and no
#: waiting mends it.
LOOK = 1.0

#: No broker answered in time.
_AWAY = (KafkaError._TRANSPORT, KafkaError._TIMED_OUT)

Answer = TypeVar("Answer")


@dataclass(frozen=True, kw_only=True)
class Topic:
    """One topic as it stands in the cluster."""

    name: str
    partitions: int
    replication: int


@dataclass(frozen=True, kw_only=True)
class PartitionState:
    """Where one partition is."""

    number: int
    #: Broker ids. A leader of -1: the partition is out of reach.
    leader: int
    replicas: tuple[int, ...]
    in_sync: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Brokers and topics."""

    #: "host:port" by broker id, as the cluster names them itself.
    brokers: Mapping[int, str]
    topics: Mapping[str, tuple[PartitionState, ...]]


@dataclass(frozen=True, kw_only=True)
class Member:
    """One consumer of a group."""

    client_id: str
    host: str
    partitions: tuple[Partition, ...]


@dataclass(frozen=True, kw_only=True)
class Group:
    """One consumer group."""

    name: str
    #: Kafka's own word: STABLE, EMPTY, DEAD, …
    state: str
    members: tuple[Member, ...]


class KafkaAdmin:
    """Asks the cluster about topics and groups, and changes them.

    Its client is made at the first request: make the object and use it in one process. One request lasts
    ``timeout`` seconds at most.
    """

    def __init__(self, settings: Settings, timeout: float = TIMEOUT) -> None:
        self._settings = settings
        self._timeout = timeout
        self._made: AdminClient | None = None
        #: Why a broker refused this client, or this client a broker, since the request began.
        self._distrust: KafkaError | None = None

    def topics(self) -> dict[str, Topic]:
        """All topics of the cluster by name. Asks for no topic by name, so none is made by asking."""
        return {name: _topic(name, data) for name, data in self._metadata().topics.items() if not data.error}

    def cluster(self) -> Cluster:
        """Brokers and topics, each partition with its leader and replicas."""
        metadata = self._metadata()
        return Cluster(
            brokers={broker.id: f"{broker.host}:{broker.port}" for broker in metadata.brokers.values()},
            topics={
                name: tuple(
                    PartitionState(
                        number=number, leader=at.leader, replicas=tuple(at.replicas), in_sync=tuple(at.isrs)
                    )
                    for number, at in sorted(data.partitions.items())
                )
                for name, data in metadata.topics.items()
                if not data.error
            },
        )

    def groups(self) -> list[str]:
        """The names of the cluster's consumer groups."""
        answer = self._client.list_consumer_groups(request_timeout=self._timeout)
        return sorted(group.group_id for group in self._result(answer, "list groups").valid)

    def group(self, name: str) -> Group:
        """A consumer group's state and members. A group that never was is "DEAD", without members.

        A coordinator that is still being found, as on a cluster just started, is asked again within the time.
        """
        deadline = time.monotonic() + self._timeout
        while True:
            answer = self._client.describe_consumer_groups([name], request_timeout=self._timeout)[name]
            try:
                found = self._result(answer, f"describe group {name}")
            except ServiceUnavailableError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)
                continue
            return Group(name=name, state=found.state.name, members=tuple(map(_member, found.members)))

    def create(self, name: str, *, partitions: int, replication: int, config: Mapping[str, str]) -> bool:
        """Create a topic; False when it exists. It then has what it has: ask ``topics`` and ``configs``.

        A cluster without a controller (librdkafka's mock) makes a topic when its metadata is asked for, with
        partitions and configuration of its own choice: so that is asked.
        """
        if not self._has_controller():
            return self._create_by_asking(name)
        new = NewTopic(name, num_partitions=partitions, replication_factor=replication, config=dict(config))
        answers = self._client.create_topics([new], request_timeout=self._timeout)
        try:
            answers[name].result(self._timeout + 1)
        except KafkaException as error:
            if error.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS:
                return False
            raise kafka_error(error, f"create topic {name}") from error
        self._wait_until(lambda: name in self.topics(), f"topic {name} is made")
        return True

    def grow(self, name: str, partitions: int) -> None:
        """Raise the number of a topic's partitions. Its keys then move, and lose their order once."""
        self._require_controller(f"grow topic {name}")
        answers = self._client.create_partitions(
            [NewPartitions(name, partitions)], request_timeout=self._timeout
        )
        self._result(answers[name], f"grow topic {name} to {partitions} partitions")
        self._wait_until(lambda: self.topics()[name].partitions == partitions, f"topic {name} has grown")

    def configs(self, names: Iterable[str]) -> dict[str, dict[str, str]]:
        """The configuration of existing topics, by name; {} from one without a controller (the mock)."""
        resources = [ConfigResource(ResourceType.TOPIC, name) for name in names]
        if not resources or not self._has_controller():
            return {}
        answers = self._client.describe_configs(resources, request_timeout=self._timeout)
        return {
            resource.name: {
                name: entry.value for name, entry in self._result(answer, f"describe {resource.name}").items()
            }
            for resource, answer in answers.items()
        }

    def configure(self, name: str, config: Mapping[str, str]) -> None:
        """Set some of a topic's configuration; the rest stays."""
        self._require_controller(f"configure topic {name}")
        entries = [
            ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET)
            for key, value in config.items()
        ]
        resource = ConfigResource(ResourceType.TOPIC, name, incremental_configs=entries)
        answers = self._client.incremental_alter_configs([resource], request_timeout=self._timeout)
        self._result(answers[resource], f"configure topic {name}")
        self._wait_until(
            lambda: config.items() <= self.configs([name])[name].items(), f"topic {name} is configured"
        )

    def watermarks(self, names: Iterable[str]) -> dict[Partition, tuple[int, int]]:
        """The first offset kept and the next one to be written, of each partition of existing topics."""
        known = self.topics()
        partitions = [
            Partition(name, n) for name in names if name in known for n in range(known[name].partitions)
        ]
        low, high = (self._offsets(partitions, spec) for spec in (OffsetSpec.earliest(), OffsetSpec.latest()))
        return {partition: (low[partition], high[partition]) for partition in partitions}

    def committed(self, group: str, partitions: Iterable[Partition] | None = None) -> dict[Partition, int]:
        """The next offset a group will read, of the partitions it has committed; of all without any."""
        asked = None if partitions is None else [TopicPartition(*partition) for partition in partitions]
        if asked == []:
            return {}
        request = ConsumerGroupTopicPartitions(group, asked)
        if self._has_controller():
            # Waits for the group's coordinator: while it loads, this answer ends the process (SIGSEGV in
            # rd_kafka_handle_OffsetFetch, librdkafka 2.x). The mock cluster cannot describe groups.
            self.group(group)
        answer = self._client.list_consumer_group_offsets([request], request_timeout=self._timeout)[group]
        offsets = self._result(answer, f"read the offsets of group {group}").topic_partitions or []
        return {Partition(at.topic, at.partition): at.offset for at in offsets if at.offset >= 0}

    def lag(self, group: str, names: Iterable[str]) -> dict[Partition, int]:
        """Events of each partition that ``group`` has not committed; all that is kept when it never has."""
        marks = self.watermarks(names)
        committed = self.committed(group, marks)
        return {
            partition: max(0, high - max(committed.get(partition, low), low))
            for partition, (low, high) in marks.items()
        }

    @property
    def _client(self) -> AdminClient:
        if self._made is None:
            configuration = client_configuration(self._settings, "admin") | {"error_cb": self._on_error}
            self._made = made(AdminClient, configuration)
        return self._made

    def _on_error(self, error: KafkaError) -> None:
        self._distrust = distrust(error) or self._distrust

    def _metadata(self, topic: str | None = None) -> Any:
        action = f"reach {self._settings.kafka_bootstrap_servers}"
        deadline = time.monotonic() + self._timeout
        self._distrust = None
        while True:
            left = max(0.0, deadline - time.monotonic())
            try:
                return self._client.list_topics(topic, timeout=min(LOOK, left))
            except KafkaException as error:
                # What brokers said meanwhile is told here.
                self._client.poll(0)
                if self._distrust:
                    raise kafka_error(self._distrust, action) from error
                if left <= LOOK or error.args[0].code() not in _AWAY:
                    raise kafka_error(error, action) from error

    def _has_controller(self) -> bool:
        metadata = self._metadata()
        return metadata.controller_id in metadata.brokers

    def _wait_until(self, seen: Callable[[], bool], what: str) -> None:
        """Brokers hear of a change a moment after the controller made it."""
        deadline = time.monotonic() + self._timeout
        while not seen():
            if time.monotonic() > deadline:
                raise ServiceUnavailableError(
                    f"Kafka: {what}, but no broker says so {self._timeout:g} s later"
                )
            time.sleep(0.05)

    def _require_controller(self, action: str) -> None:
        if not self._has_controller():
            raise ServiceRefusedError(
                f"Could not {action}: the cluster has no controller (librdkafka's mock), so nothing changes"
            )

    def _create_by_asking(self, name: str) -> bool:
        existed = name in self.topics()
        topic = self._metadata(name).topics[name]
        if topic.error:
            raise kafka_error(topic.error, f"create topic {name}")
        return not existed

    def _offsets(self, partitions: list[Partition], spec: OffsetSpec) -> dict[Partition, int]:
        if not partitions:
            return {}
        asked = {TopicPartition(*partition): spec for partition in partitions}
        answers = self._client.list_offsets(asked, request_timeout=self._timeout)
        return {
            Partition(at.topic, at.partition): self._result(answer, f"read offsets of {at.topic}").offset
            for at, answer in answers.items()
        }

    def _result(self, answer: "Future[Answer]", action: str) -> Answer:
        try:
            return answer.result(self._timeout + 1)
        except KafkaException as error:
            raise kafka_error(error, action) from error
        except TimeoutError as error:
            raise ServiceUnavailableError(f"Could not {action}: no answer in {self._timeout:g} s") from error


def _member(data: Any) -> Member:
    assignment = data.assignment.topic_partitions if data.assignment else ()
    return Member(
        client_id=data.client_id,
        host=data.host,
        partitions=tuple(sorted(Partition(at.topic, at.partition) for at in assignment)),
    )


def _topic(name: str, data: Any) -> Topic:
    replication = min((len(partition.replicas) for partition in data.partitions.values()), default=0)
    return Topic(name=name, partitions=len(data.partitions), replication=replication)
