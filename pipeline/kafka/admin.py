"""Administration of topics: create, describe and change."""

import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    ResourceType,
)

from pipeline.errors import ServiceRefusedError, ServiceUnavailableError
from pipeline.kafka.configuration import client_configuration
from pipeline.kafka.errors import kafka_error, no_token, trust_error
from pipeline.kafka.security import make_client, weak_callback
from pipeline.settings import Settings

#: Seconds one request may take.
TIMEOUT = 15.0

#: Seconds of a request between two checks whether brokers refuse this client, which waiting does not mend.
CHECK_EVERY = 1.0

#: No broker answered in time.
_AWAY = (KafkaError._TRANSPORT, KafkaError._TIMED_OUT)

Answer = TypeVar("Answer")


@dataclass(frozen=True, kw_only=True)
class Topic:
    """One topic of the cluster."""

    name: str
    partitions: int
    replication: int


@dataclass(frozen=True, kw_only=True)
class PartitionState:
    """The leader and replicas of one partition."""

    number: int
    #: Broker ids. A leader of -1: the partition is out of reach.
    leader: int
    replicas: tuple[int, ...]
    in_sync: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Brokers and topics."""

    #: "host:port" by broker id, as the cluster advertises them.
    brokers: Mapping[int, str]
    topics: Mapping[str, tuple[PartitionState, ...]]


class KafkaAdmin:
    """Reads and changes topics of the cluster.

    Its client is made at the first request; create and use the object in one process. One request lasts
    ``timeout`` seconds at most.
    """

    def __init__(self, settings: Settings, timeout: float = TIMEOUT) -> None:
        self._settings = settings
        self._timeout = timeout
        self._made: AdminClient | None = None
        #: Whether the cluster has a controller; asked until it has.
        self._controlled = False
        #: The refusal of a broker, or of its certificate, since the request began.
        self._trust_error: KafkaError | None = None
        #: That no token came, since the request began.
        self._no_token: KafkaError | None = None

    def topics(self) -> dict[str, Topic]:
        """Return all topics of the cluster by name. The request names no topic, so it creates none."""
        return {name: _topic(name, data) for name, data in self._metadata().topics.items() if not data.error}

    def cluster(self) -> Cluster:
        """Return brokers and topics, each partition with its leader and replicas."""
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

    def create(self, name: str, *, partitions: int, replication: int, config: Mapping[str, str]) -> bool:
        """Create a topic; False when it exists, with whatever ``topics`` and ``configs`` say of it.

        A cluster without a controller (librdkafka's mock) creates a topic on a request for its metadata, with
        partitions and configuration of its own choice, so that is the request there.
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
        # By its name: the list of a large cluster's topics takes seconds.
        self._wait_until(lambda: not self._metadata(name).topics[name].error, f"topic {name} is made")
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
        """Return the configuration of existing topics, by name; {} from a cluster without a controller."""
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

    @property
    def _client(self) -> AdminClient:
        if self._made is None:
            configuration = client_configuration(self._settings, "admin") | {
                "error_cb": weak_callback(self._on_error)
            }
            self._made = make_client(AdminClient, configuration)
        return self._made

    def _on_error(self, error: KafkaError) -> None:
        self._trust_error = trust_error(error) or self._trust_error
        self._no_token = no_token(error) or self._no_token

    def _metadata(self, topic: str | None = None) -> Any:
        action = f"reach {self._settings.kafka_bootstrap_servers}"
        if self._settings.kafka_oauth_token_url:
            action += f", with a token of {self._settings.kafka_oauth_token_url}"
        deadline = time.monotonic() + self._timeout
        self._trust_error = self._no_token = None
        while True:
            left = max(0.0, deadline - time.monotonic())
            try:
                return self._client.list_topics(topic, timeout=min(CHECK_EVERY, left))
            except KafkaException as error:
                # Serves the error callback with what brokers answered meanwhile.
                self._client.poll(0)
                if self._trust_error:
                    raise kafka_error(self._trust_error, action) from error
                if left <= CHECK_EVERY or error.args[0].code() not in _AWAY:
                    raise kafka_error(self._no_token or error, action) from error

    def _has_controller(self) -> bool:
        if not self._controlled:
            metadata = self._metadata()
            self._controlled = metadata.controller_id in metadata.brokers
        return self._controlled

    def _wait_until(self, seen: Callable[[], bool], what: str) -> None:
        """Wait until brokers report a change, a moment after the controller made it."""
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

    def _result(self, answer: "Future[Answer]", action: str) -> Answer:
        try:
            return answer.result(self._timeout + 1)
        except KafkaException as error:
            raise kafka_error(error, action) from error
        except TimeoutError as error:
            raise ServiceUnavailableError(f"Could not {action}: no answer in {self._timeout:g} s") from error


def _topic(name: str, data: Any) -> Topic:
    replication = min((len(partition.replicas) for partition in data.partitions.values()), default=0)
    return Topic(name=name, partitions=len(data.partitions), replication=replication)
