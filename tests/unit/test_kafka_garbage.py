"""The owner of a Kafka client: it goes with its last reference, not in a collection on some thread."""

import gc
import weakref
from collections.abc import Iterator

import pytest

from pipeline.kafka import KafkaAdmin
from pipeline.kafka.producer import _Client
from pipeline.settings import Settings


@pytest.fixture
def settings() -> Settings:
    """Those of a broker that is not there."""
    return Settings(
        service_name="garbage",
        kafka_bootstrap_servers="127.0.0.1:1",
        kafka_consumer_group="garbage",
        sqs_task_queue_url="http://127.0.0.1:1/0/tasks.fifo",
        sqs_dlq_url="http://127.0.0.1:1/0/dlq.fifo",
    )


@pytest.fixture(autouse=True)
def no_collection() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


def test_an_admin_that_is_dropped(settings: Settings) -> None:
    """It is no cycle with its client."""
    admin = KafkaAdmin(settings)
    admin._client.poll(0)
    dropped = weakref.ref(admin)
    del admin
    assert dropped() is None


def test_a_producer_that_is_closed(settings: Settings) -> None:
    """Its thread holds it until it is closed, and nothing after."""
    client = _Client(settings, "test", {})
    dropped = weakref.ref(client)
    client.close(0)
    client._thread.join(60)
    del client
    assert dropped() is None
