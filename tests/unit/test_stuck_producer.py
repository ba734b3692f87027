"""A client that emits nothing although Kafka answers it is replaced; one that waits for Kafka is kept."""

import time
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from pipeline.errors import ServiceUnavailableError
from pipeline.kafka import OrderedProducer, OutgoingRecord
from pipeline.kafka import producer as module
from tests import builders

RECORDS = [OutgoingRecord(topic="t", key=b"k", value=b"%d" % n, headers=()) for n in range(3)]


class Client:
    """A librdkafka producer: it acknowledges at the next poll, or never."""

    def __init__(self, cluster: "Cluster") -> None:
        self._cluster = cluster
        self._stuck = not cluster.clients
        self._held: list[Any] = []
        self._failed: list[Any] = []
        self.produced: list[bytes] = []

    def produce(self, topic: str, *, value: bytes, on_delivery: Any, **_: Any) -> None:
        self.produced.append(value)
        self._held.append(on_delivery)

    def poll(self, timeout: float) -> None:
        time.sleep(min(timeout, 0.01))
        failed, self._failed = self._failed, []
        for report in failed:
            report(KafkaError(KafkaError._PURGE_QUEUE), None)
        if not self._stuck:
            held, self._held = self._held, []
            for report in held:
                report(None, None)

    def flush(self, timeout: float) -> int:
        self.poll(timeout)
        return len(self._held)

    def purge(self) -> None:
        self._failed, self._held = self._held, []

    def list_topics(self, topic: str, timeout: float) -> Any:
        if not self._cluster.answers:
            raise KafkaException(KafkaError(KafkaError._TRANSPORT))
        partition = SimpleNamespace(leader=self._cluster.leader)
        return SimpleNamespace(topics={topic: SimpleNamespace(error=None, partitions={0: partition})})


class Cluster:
    """Kafka, and the clients that were made of it: the first one emits nothing."""

    def __init__(self) -> None:
        self.clients: list[Client] = []
        self.answers = True
        self.leader = 1

    def make_client(self, *_: Any) -> Client:
        client = Client(self)
        self.clients.append(client)
        return client


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    cluster = Cluster()
    monkeypatch.setattr(module, "make_client", cluster.make_client)
    monkeypatch.setattr(module, "DELIVERY_TIMEOUT", 0.05)
    return cluster


def emit(times: int, seconds: float) -> list[Any]:
    """The last answers of so many tries, as a settlement makes them; each waits for so long."""
    producer = OrderedProducer(builders.settings(), "test")
    answers: list[Any] = []
    for _ in range(times):
        answers = producer.emit(RECORDS, seconds)
    producer.close(0)
    return answers


def test_a_stuck_client_is_replaced_and_all_is_emitted_in_order(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The records that it held fail, and the next try after that has a new client."""
    # Longer than a busy machine takes to let them fail: else the new client is taken for stuck, too.
    monkeypatch.setattr(module, "DELIVERY_TIMEOUT", 2.0)
    assert emit(3, 2.1) == [None] * 3
    assert [client.produced for client in cluster.clients] == [[b"0", b"1", b"2"]] * 2


@pytest.mark.parametrize("away", ["no broker answers", "the topic has no leader"])
def test_a_client_that_waits_for_kafka_is_kept(cluster: Cluster, away: str) -> None:
    """Its records are on their way: another client's could overtake them."""
    cluster.answers = away != "no broker answers"
    cluster.leader = -1 if away == "the topic has no leader" else 1
    answers = emit(3, 0.2)
    assert [type(answer) for answer in answers] == [ServiceUnavailableError] * 3
    assert [client.produced for client in cluster.clients] == [[b"0", b"1", b"2"]]
