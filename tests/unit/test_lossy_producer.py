"""A producer of records that may be lost, while no broker answers."""

from queue import SimpleQueue

import pytest

from pipeline.errors import ServiceError, ServiceUnavailableError
from pipeline.kafka import LossyProducer, OutgoingRecord
from tests import builders

RECORD = OutgoingRecord(topic="events", key=b"worker", value=b"{}")


def test_after_a_record_that_came_late_comes_a_new_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that is stuck would lose all that follows."""
    late = {**LossyProducer._differences, "delivery.timeout.ms": 50}
    monkeypatch.setattr(LossyProducer, "_differences", late)
    producer = LossyProducer(builders.settings(kafka_bootstrap_servers="127.0.0.1:1"), "test")
    clients = set()
    for number in (1, 2):
        answers: SimpleQueue[ServiceError | None] = SimpleQueue()
        producer.produce(RECORD, answers.put)
        clients.add(producer._client)
        assert isinstance(answers.get(timeout=60), ServiceUnavailableError)
        assert len(clients) == number
    producer.close(0)
