"""A real worker whose stages emit topics with schemas, and a real registry that comes and goes."""

import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from click.testing import CliRunner, Result
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer
from confluent_kafka.schema_registry.json_schema import JSONDeserializer
from confluent_kafka.serialization import MessageField, SerializationContext

from pipeline.cli import main
from pipeline.infra.provision import provision
from pipeline.kafka import ReceivedRecord, newest_records
from pipeline.services.environment import Services
from tests.conftest import MakeEnvironment
from tests.integration.shop import WORKER, Shop, open_shop
from tests.ownstages import stages_alone
from tests.processes import PATIENCE
from tests.registry import RunningRegistry, registry


@pytest.fixture(scope="module")
def schemas(local_programs: None) -> Iterator[RunningRegistry]:
    """A registry of this module's own, which it ends and starts again with what it had."""
    with registry(keep=True) as running:
        yield running


@pytest.fixture(scope="module")
def shop(
    schemas: RunningRegistry,
    embedded_services: Services,
    make_environment: MakeEnvironment,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Shop]:
    """A service without workers."""
    with (
        open_shop(
            embedded_services,
            make_environment,
            tmp_path_factory.mktemp("shop"),
            TASK_MODULES="tests.integration.pricing",
            SCHEMA_REGISTRY_URL=schemas.url,
        ) as shop,
        stages_alone("tests.integration.pricing") as shop.registry,
    ):
        yield shop


def submit(shop: Shop, stage: str, key: str, amounts: list[int]) -> str:
    """Submit an order to a stage, which is known while the module's shop is open; the job's id."""
    found = shop.registry.by_name[stage]
    return shop.submit(found, found.load_input(json.dumps({"key": key, "amounts": amounts})))


def records(shop: Shop, topic: str, key: str) -> list[ReceivedRecord]:
    """The records of a logical topic whose value names a key."""
    found = newest_records(shop.settings, shop.settings.topic(topic), 100, PATIENCE)
    return [record for record in found if key.encode() in (record.value or b"")]


def read(client: SchemaRegistryClient, record: ReceivedRecord, reader: Any) -> Any:
    """What Confluent's deserializer reads of a record."""
    return reader(record.value, SerializationContext(record.topic, MessageField.VALUE))


def test_a_topic_with_a_schema_from_provision_to_its_readers(shop: Shop, schemas: RunningRegistry) -> None:
    """No start before provision; then values that others read, also while the registry comes and goes."""
    refused = shop.start()
    assert refused.wait(PATIENCE) != 0
    assert "The schema registry does not have the schema of prices under" in shop.log()

    made = [result for result in provision(shop.settings, shop.registry) if result.kind == "schema"]
    assert [result.outcome for result in made] == ["made"] * 3
    worker = shop.start()
    shop.wait(lambda: " ready." in shop.log(), "the worker is ready")

    # Its id is not known yet, and the registry is away: the result waits.
    schemas.stop()
    first = submit(shop, "estimate", "first", [3, 4])
    shop.wait(lambda: "find schemas" in shop.log(), "the worker waits for the registry")
    assert not records(shop, "prices", "first")
    schemas.start()
    shop.wait_job(first)
    counted = submit(shop, "tally", "counted", [3, 4])
    shop.wait_job(counted)

    # Ids are known: the registry is not asked again.
    schemas.stop()
    shop.wait_job(submit(shop, "estimate", "second", [1]))
    schemas.start()

    client = SchemaRegistryClient({"url": schemas.url})
    try:
        check_values(shop, client, first)
    finally:
        client.close()

    # A value that the schema has no room for.
    submit(shop, "estimate", "huge", [2**63])
    letter = shop.wait_letter("huge")
    assert "amounts is '9223372036854775808', which is not long" in letter.attributes["reason"]
    assert letter.attributes["attempts"] == "1"
    assert not records(shop, "prices", "huge")
    assert shop.stop(worker) == 0


def test_a_submitted_event_is_written_by_the_schema(shop: Shop, schemas: RunningRegistry) -> None:
    """Readers of the topic find no JSON there; what the schema has no room for is refused."""
    list(provision(shop.settings, shop.registry))

    def submit_by_hand(data: str) -> Result:
        return CliRunner().invoke(main, ["submit", "checked-prices", "--data", data], env=shop.environment)

    done = submit_by_hand('{"key": "by-hand", "amounts": 1}')
    assert done.exit_code == 0, done.output
    (record,) = records(shop, "checked-prices", "by-hand")
    client = SchemaRegistryClient({"url": schemas.url})
    try:
        found = read(client, record, AvroDeserializer(client))
    finally:
        client.close()
    assert found == {"key": "by-hand", "amounts": 1, "total": None}
    assert dict(record.headers)["content-type"] == b"application/avro"
    refused = submit_by_hand(f'{{"key": "too-large", "amounts": {2**63}}}')
    assert refused.exit_code != 0
    assert "topic checked-prices has a schema: " in refused.output
    assert not records(shop, "checked-prices", "too-large")


def test_the_next_stage_reads_what_one_emitted(shop: Shop) -> None:
    """A bridge reads the values of Avro back, so a job goes through a topic with a schema to its end."""
    list(provision(shop.settings, shop.registry))
    worker = shop.start()
    with shop.log_file.open("ab") as log:
        bridge = shop.children.start([*WORKER[:5], "bridge"], environment=shop.environment, output=log)
    job_id = submit(shop, "check", "through", [1, 2])
    shop.wait_job(job_id)
    (record,) = records(shop, "checked-prices", "through")
    assert (record.value or b"")[:1] == b"\0"
    shop.children.end(bridge)
    assert shop.stop(worker) == 0


def check_values(shop: Shop, client: SchemaRegistryClient, job_id: str) -> None:
    """Confluent's deserializers read what was emitted; the headers are those of an event."""
    (avro,), (again,) = records(shop, "prices", "first"), records(shop, "prices", "second")
    assert read(client, avro, AvroDeserializer(client)) == {
        "key": "first",
        "amounts": 7,
        "total": Decimal("2.00"),
    }
    assert (again.value or b"")[:5] == (avro.value or b"")[:5]
    headers = dict(avro.headers)
    assert headers["content-type"] == b"application/avro"
    assert headers["ce_jobid"] == job_id.encode()
    (framed,) = records(shop, "counts", "counted")
    expected = {"key": "counted", "amounts": 2, "total": None}
    assert read(client, framed, JSONDeserializer(None, None, client)) == expected
    assert dict(framed.headers)["content-type"] == b"application/json"
