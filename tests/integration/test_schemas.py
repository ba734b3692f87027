"""Records with a schema become tasks; while the registry is away they wait, and nothing else does."""

import json
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from confluent_kafka.schema_registry import Schema as VendorSchema
from confluent_kafka.schema_registry import SchemaRegistryClient

from pipeline import Record, consumer, stage
from pipeline.author.registry import Registry
from pipeline.bridge.bridge import Bridge
from pipeline.bridge.delivery import SqsDelivery
from pipeline.bridge.knownplans import KnownPlans
from pipeline.bridge.pulse import Pulse
from pipeline.infra.provision import provision
from pipeline.kafka import EventProducer, KafkaAdmin, OutgoingRecord
from pipeline.registry.frames import frame
from pipeline.services.environment import Services
from pipeline.settings import DLQ_TOPIC
from pipeline.telemetry import metrics
from tests.conftest import MakeSettings
from tests.integration.test_bridge import World
from tests.processes import wait_until
from tests.registry import RunningRegistry, registry

pytestmark = pytest.mark.one_set

#: Seconds in which a bridge ends that has nothing in flight. Waiting for the registry would be a minute.
STOP_WITHIN = 30.0

TEXT = '"string"'
ROW = json.dumps(
    {
        "type": "record",
        "name": "Envelope",
        "fields": [
            {"name": "before", "type": ["null", {
                "type": "record", "name": "Value", "fields": [{"name": "id", "type": "long"}]}]},
            {"name": "after", "type": ["null", "Value"]},
            {"name": "source", "type": {
                "type": "record", "name": "Source", "fields": [{"name": "connector", "type": "string"}]}},
            {"name": "op", "type": "string"},
        ],
    }
)  # fmt: skip


@pytest.fixture(scope="module")
def own_registry(local_programs: None) -> Iterator[RunningRegistry]:
    """A registry that ends and starts again with its schemas."""
    with registry(keep=True) as running:
        yield running


class SchemaWorld(World):
    """The service, whose bridge reads its consumer's topic, too."""

    def make_bridge(self) -> Bridge:
        plans = KnownPlans(self.registry.routes)
        consumers = self.registry.consumers.values()
        delivery = SqsDelivery.make(self.settings, plans, consumers)
        return Bridge(self.settings, plans, plans.topics, delivery, Pulse(), consumers)

    def framed(self, schema_id: int, content: bytes, key: bytes = b"ada", topic: str = "") -> OutgoingRecord:
        """A record as Confluent's serializers write it."""
        return OutgoingRecord(topic=topic or self.topic, key=key, value=frame(schema_id, content))

    def data(self, count: int) -> list[Any]:
        """The data of that many tasks, in the order in which they come."""
        return [json.loads(json.loads(message.body)["body"])[0][0] for message in self.receive(count)]


@pytest.fixture
def world(
    services: Services, make_settings: MakeSettings, own_registry: RunningRegistry
) -> Iterator[SchemaWorld]:
    """A service of two stages and a consumer."""
    others = f"cdc-{uuid.uuid4().hex}"
    settings = make_settings(services, SCHEMA_REGISTRY_URL=own_registry.url, KAFKA_TOPIC_ROWS_CDC=others)
    stages = Registry()

    @stage(consumes="letters", ordered=True, registry=stages)
    def read(letter: str) -> None: ...

    @stage(consumes="rows", ordered=True, registry=stages)
    def book(row: int) -> None: ...

    @consumer("rows-cdc", emits="rows", registry=stages)
    def change(record: Record[dict[str, int]]) -> int | None:
        return record.data["id"] if record.operation == "create" else None

    list(provision(settings, stages))
    KafkaAdmin(settings).create(others, partitions=1, replication=1, config={})
    producer = EventProducer(settings, "test")
    yield SchemaWorld(settings, stages, producer)
    producer.close(5)


def registered(url: str, schema: str) -> int:
    """The id of a schema under a subject of its own."""
    with SchemaRegistryClient({"url": url}) as client:
        return int(client.register_schema(uuid.uuid4().hex, VendorSchema(schema, "AVRO")))


def named(name: str) -> str:
    """A record of one text that no other test has, so that no bridge has its reader."""
    fields = [{"name": "letter", "type": "string"}]
    return json.dumps({"type": "record", "name": f"{name}{uuid.uuid4().hex}", "fields": fields})


def away() -> float:
    """What the metric says."""
    found = metrics.REGISTRY.get_sample_value("pipeline_schema_registry_away")
    assert found is not None
    return found


def test_records_with_a_schema_become_tasks(world: SchemaWorld, own_registry: RunningRegistry) -> None:
    """Of a stage's topic, and of a topic of others that Debezium writes in Avro; JSON stays JSON."""
    text, row = registered(own_registry.url, TEXT), registered(own_registry.url, ROW)
    cdc = world.settings.topic_of_others("rows-cdc")
    # Before: none; after: a row; its connector; its operation.
    created = [b"\x00\x02" + bytes([2 * n]) + b"\x14postgresql\x02c" for n in (1, 2)]
    deleted = b"\x02\x02\x00\x14postgresql\x02d"
    world.emit([world.framed(text, b"\x02a"), world.letter(1, data=b'"b"'), world.framed(text, b"\x02c")])
    world.emit([world.framed(row, content, topic=cdc) for content in (*created, deleted)])
    with world.bridge():
        found = world.data(5)
    assert [each for each in found if isinstance(each, str)] == ["a", "b", "c"]
    assert [each for each in found if isinstance(each, int)] == [1, 2]


def test_records_wait_for_a_registry_that_is_away(world: SchemaWorld, own_registry: RunningRegistry) -> None:
    """Their partition waits, in its order, and other topics go on; nothing is a dead letter."""
    first, second = (registered(own_registry.url, named(name)) for name in "AB")
    own_registry.stop()
    try:
        world.emit(
            [world.framed(first, b"\x02a"), world.framed(second, b"\x02b"), world.letter(1, data=b'"c"')]
        )
        with world.bridge():
            wait_until(lambda: away() == 1, "the outage")
            rows = [world.letter(n, "eve", data=b"%d" % n, type="rows") for n in (8, 9)]
            world.emit([replace(row, topic=world.settings.topic("rows")) for row in rows])
            assert world.data(2) == [8, 9]
            assert world.lag() == 3
            own_registry.start()
            assert world.data(3) == [{"letter": "a"}, {"letter": "b"}, "c"]
            wait_until(lambda: world.lag() == 0, "the commit")
        assert away() == 0
    finally:
        own_registry.start()


def test_a_bridge_that_stops_while_records_wait_leaves_them(
    world: SchemaWorld, own_registry: RunningRegistry
) -> None:
    """It ends at once and commits nothing of them; the next one takes them."""
    schema_id = registered(own_registry.url, named("C"))
    own_registry.stop()
    try:
        world.emit(
            [world.letter(1, data=b'"a"'), world.framed(schema_id, b"\x02b"), world.letter(2, data=b'"c"')]
        )
        began = time.monotonic()
        with world.bridge():
            assert world.data(1) == ["a"]
            wait_until(lambda: away() == 1, "the outage")
            began = time.monotonic()
        assert time.monotonic() - began < STOP_WITHIN
        assert world.lag() == 2
    finally:
        own_registry.start()
    with world.bridge():
        assert world.data(2) == [{"letter": "b"}, "c"]


def test_a_record_whose_schema_nobody_knows_is_a_dead_letter(
    world: SchemaWorld, own_registry: RunningRegistry
) -> None:
    """With its bytes as they were, the id in the reason, and the events behind it as tasks."""
    schema_id = registered(own_registry.url, TEXT)
    unknown = world.framed(2_000_000_000, b"x")
    world.emit([unknown, world.framed(schema_id, b"\x07"), world.framed(schema_id, b"\x02a")])
    with world.bridge():
        assert world.data(1) == ["a"]
        letters = world.read(DLQ_TOPIC, 2)
    # A burial of several has no order.
    assert {letter.value for letter in letters} == {unknown.value, frame(schema_id, b"\x07")}
    errors = sorted(json.loads(letter.value or b"")["message"] for letter in world.read("errors", 2))
    assert f"does not fit schema {schema_id} (AVRO)" in errors[0]
    assert "has no schema 2000000000" in errors[1]
