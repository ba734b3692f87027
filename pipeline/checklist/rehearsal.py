"""Rehearses what cannot be read: closes this service's own clients on librdkafka's mock cluster.

The services that are configured see nothing of it: no event on a topic, no member in a group.
"""

import time
from dataclasses import dataclass

from config.settings import Settings
from pipeline.kafka import EventConsumer, EventProducer, KafkaAdmin, Record
from pipeline.services.embedded import start_mock_cluster

TOPIC, EVENTS = "checklist-rehearsal", 100

#: Seconds the whole may take; it takes less than one.
WITHIN = 10.0


@dataclass(frozen=True, kw_only=True)
class Rehearsal:
    """What closing did."""

    #: Events queued when the producer was closed, and those acknowledged by then.
    produced: int
    delivered: int
    #: Partitions the consumer held when it was closed, and those it was told to give back.
    assigned: int
    revoked: int


def rehearse_close(settings: Settings) -> Rehearsal:
    """Close a producer with events still queued, then a consumer that holds partitions."""
    cluster, servers = start_mock_cluster()
    mock = settings.model_copy(
        update={
            "kafka_bootstrap_servers": servers,
            "kafka_security_protocol": "PLAINTEXT",
            # With the classic protocol it takes the mock three seconds to let a member in.
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
        record = Record(topic=TOPIC, key=str(number).encode(), value=b"{}")
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
        on_lost=lambda _: None,
    )
    deadline = time.monotonic() + WITHIN
    while not assigned and time.monotonic() < deadline:
        consumer.poll(EVENTS, 0.1)
    consumer.close()
    return len(assigned), len(revoked)
