"""Topics and groups: create, describe, change, and how far a group is behind."""

from collections.abc import Iterable, Mapping
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
from pipeline.kafka.configuration import client_configuration
from pipeline.kafka.consumer import Partition
from pipeline.kafka.errors import kafka_error

#: Seconds one request may take.
TIMEOUT = 15.0

Answer = TypeVar("Answer")


@dataclass(frozen=True, kw_only=True)
class Topic:
    """One topic as it stands in the cluster."""

    name: str
    partitions: int
    replication: int


class KafkaAdmin:
    """Asks the cluster about topics and groups, and changes them.

    Its client is made at the first request: make the object and use it in one process.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._made: AdminClient | None = None

    def topics(self) -> dict[str, Topic]:
        """All topics of the cluster by name. Asks for no topic by name, so none is made by asking."""
        return {name: _topic(name, data) for name, data in self._metadata().topics.items() if not data.error}

    def create(self, name: str, *, partitions: int, replication: int, config: Mapping[str, str]) -> bool:
        """Create a topic; False when it exists. It then has what it has: ask ``topics`` and ``configs``.

        A cluster without a controller (librdkafka's mock) makes a topic when its metadata is asked for, with
        partitions and configuration of its own choice: so that is asked.
        """
        if not self._has_controller():
            return self._create_by_asking(name)
        new = NewTopic(name, num_partitions=partitions, replication_factor=replication, config=dict(config))
        answers = self._client.create_topics([new], request_timeout=TIMEOUT)
        try:
            answers[name].result(TIMEOUT + 1)
        except KafkaException as error:
            if error.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS:
                return False
            raise kafka_error(error, f"create topic {name}") from error
        return True

    def grow(self, name: str, partitions: int) -> None:
        """Raise the number of a topic's partitions. Its keys then move, and lose their order once."""
        answers = self._client.create_partitions([NewPartitions(name, partitions)], request_timeout=TIMEOUT)
        _result(answers[name], f"grow topic {name} to {partitions} partitions")

    def configs(self, names: Iterable[str]) -> dict[str, dict[str, str]]:
        """The configuration of existing topics, by name; {} from one without a controller (the mock)."""
        resources = [ConfigResource(ResourceType.TOPIC, name) for name in names]
        if not resources or not self._has_controller():
            return {}
        answers = self._client.describe_configs(resources, request_timeout=TIMEOUT)
        return {
            resource.name: {
                name: entry.value for name, entry in _result(answer, f"describe {resource.name}").items()
            }
            for resource, answer in answers.items()
        }

    def configure(self, name: str, config: Mapping[str, str]) -> None:
        """Set some of a topic's configuration; the rest stays."""
        entries = [
            ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET)
            for key, value in config.items()
        ]
        resource = ConfigResource(ResourceType.TOPIC, name, incremental_configs=entries)
        answers = self._client.incremental_alter_configs([resource], request_timeout=TIMEOUT)
        _result(answers[resource], f"configure topic {name}")

    def watermarks(self, names: Iterable[str]) -> dict[Partition, tuple[int, int]]:
        """The first offset kept and the next one to be written, of each partition of existing topics."""
        known = self.topics()
        partitions = [
            Partition(name, n) for name in names if name in known for n in range(known[name].partitions)
        ]
        low, high = (self._offsets(partitions, spec) for spec in (OffsetSpec.earliest(), OffsetSpec.latest()))
        return {partition: (low[partition], high[partition]) for partition in partitions}

    def committed(self, group: str, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """The next offset a group will read, of the partitions it has committed."""
        asked = [TopicPartition(*partition) for partition in partitions]
        if not asked:
            return {}
        request = ConsumerGroupTopicPartitions(group, asked)
        answer = self._client.list_consumer_group_offsets([request], request_timeout=TIMEOUT)[group]
        offsets = _result(answer, f"read the offsets of group {group}").topic_partitions or []
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
            self._made = AdminClient(client_configuration(self._settings, "admin"))
        return self._made

    def _metadata(self, topic: str | None = None) -> Any:
        try:
            return self._client.list_topics(topic, timeout=TIMEOUT)
        except KafkaException as error:
            raise kafka_error(error, "list topics") from error

    def _has_controller(self) -> bool:
        metadata = self._metadata()
        return metadata.controller_id in metadata.brokers

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
        answers = self._client.list_offsets(asked, request_timeout=TIMEOUT)
        return {
            Partition(at.topic, at.partition): _result(answer, f"read offsets of {at.topic}").offset
            for at, answer in answers.items()
        }


def _topic(name: str, data: Any) -> Topic:
    replication = min((len(partition.replicas) for partition in data.partitions.values()), default=0)
    return Topic(name=name, partitions=len(data.partitions), replication=replication)


def _result(answer: "Future[Answer]", action: str) -> Answer:
    try:
        return answer.result(TIMEOUT + 1)
    except KafkaException as error:
        raise kafka_error(error, action) from error
