"""Rehearsal of a shutdown: this service's Kafka clients are closed on librdkafka's mock cluster.

The configured services are not touched: no event on a topic, no member in a group.
"""

import time
from dataclasses import dataclass

from pipeline.kafka import EventConsumer, EventProducer, KafkaAdmin, OutgoingRecord
from pipeline.services.embedded import start_mock_cluster
from pipeline.settings import Settings

TOPIC, EVENTS = "checklist-rehearsal", 100

#: Seconds the rehearsal may take; it takes less than one.
WITHIN = 10.0


@dataclass(frozen=True, kw_only=True)
class Rehearsal:
    """The result of closing a producer and a consumer."""

    #: Events queued when the producer was closed, and those acknowledged when it had closed.
    produced: int
    delivered: int
    #: Partitions the consumer held when it was closed, and those it gave back.
    assigned: int
    revoked: int


def rehearse_close(settings: Settings) -> Rehearsal:
    """Close a producer with events still queued, then a consumer that holds partitions."""
    cluster, servers = start_mock_cluster()
    mock = settings.model_copy(
        update={
            "kafka_bootstrap_servers": servers,
            "kafka_security_protocol": "PLAINTEXT",
            # With the classic protocol the mock takes three seconds to admit a member.
            "kafka_group_protocol": "consumer",
        }
    )
    KafkaAdmin(mock).create(TOPIC, partitions=4, replication=1, config={})
    delivered = _close_producer(mock)
    assigned, revoked = _close_consumer(mock)
    del cluster
    return Rehearsal(produced=EVENTS, delivered=delivered, assigned=assigned, revoked=revoked)


def _close_producer(settings: Settings) -> int:
    answers: list[bool] = []
    producer = EventProducer(settings, "checklist")
    for number in range(EVENTS):
        record = OutgoingRecord(topic=TOPIC, key=str(number).encode(), value=b"{}")
        producer.produce(record, lambda error: answers.append(error is None))
    producer.close(WITHIN)
    return sum(answers)


def _close_consumer(settings: Settings) -> tuple[int, int]:
    assigned: list[object] = []
    revoked: list[object] = []
    consumer = EventConsumer(
        settings,
        [TOPIC],
        "checklist-rehearsal",
        on_assigned=assigned.extend,
        on_revoked=revoked.extend,
    )
    deadline = time.monotonic() + WITHIN
    while not assigned and time.monotonic() < deadline:
        consumer.poll(EVENTS, 0.1)
    consumer.close()
    return len(assigned), len(revoked)
