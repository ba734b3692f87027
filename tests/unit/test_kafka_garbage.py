"""The owner of a Kafka client: it goes with its last reference, not in a collection on some thread."""

import gc
import weakref
from collections.abc import Iterator

import pytest

from pipeline.kafka import EventConsumer, KafkaAdmin
from pipeline.kafka.producer import _Client
from tests import builders

SETTINGS = builders.settings(kafka_bootstrap_servers="127.0.0.1:1")


@pytest.fixture(autouse=True)
def no_collection() -> Iterator[None]:
    """Nothing is collected while a test runs."""
    gc.disable()
    yield
    gc.enable()


def test_an_admin_that_is_dropped() -> None:
    """It is no cycle with its client."""
    admin = KafkaAdmin(SETTINGS)
    admin._client.poll(0)
    dropped = weakref.ref(admin)
    del admin
    assert dropped() is None


def test_a_producer_that_is_closed() -> None:
    """Its thread holds it until it is closed, and nothing after."""
    client = _Client(SETTINGS, "test", {}, ends_when_late=False)
    dropped = weakref.ref(client)
    client.close(0)
    client._thread.join(60)
    del client
    assert dropped() is None


def test_a_consumer_that_is_closed() -> None:
    """Its second client, which asks about topics, goes with it."""
    consumer = EventConsumer(
        SETTINGS,
        ["t"],
        "group",
    )
    dropped = weakref.ref(consumer._positions.admin())
    consumer.close()
    assert dropped() is None
