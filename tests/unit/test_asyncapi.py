"""The AsyncAPI document of a service: valid, complete, and with schemas that check its events."""

import json
from datetime import date
from pathlib import Path
from typing import Any, Literal

import pytest
from click.testing import CliRunner
from jsonschema import Draft7Validator
from pydantic import BaseModel
from referencing import Registry as Documents
from referencing.jsonschema import DRAFT7

from pipeline import Record
from pipeline.author.decorator import consumer, stage
from pipeline.author.registry import Registry
from pipeline.cli import main
from pipeline.infra.asyncapi import asyncapi
from pipeline.wire import events
from tests.builders import settings

#: AsyncAPI's own schema of documents.
SPECIFICATION = json.loads((Path(__file__).parents[1] / "data" / "asyncapi-3.0.0.json").read_text())

SETTINGS = settings(
    service_name="shop",
    kafka_bootstrap_servers="SSL://b1:9094, b2:9094",
    topic_prefix="eu.",
    schema_registry_url="https://registry:8081",
)


class Maker(BaseModel):
    name: str


class Line(BaseModel):
    article: str
    number: int = 1
    maker: Maker | None = None


class Order(BaseModel):
    lines: list[Line]
    placed: date
    pays: Literal["card", "cash"]


class Bill(BaseModel):
    total: int
    order: Order


@pytest.fixture
def registry() -> Registry:
    """Topics of JSON, Avro and JSON Schema, one of others; two stages on one of them."""
    registry = Registry()

    @stage(consumes="order-placed", emits="order-billed", format="avro", registry=registry)
    def bill(order: Order) -> Bill:
        return Bill(total=1, order=order)

    @stage(consumes="order-placed", emits="line.counted", registry=registry)
    def count(order: dict[str, Any]) -> int:
        return len(order)

    @stage(consumes="order-billed", emits="order-mailed", format="json-schema", registry=registry)
    def mail(bill: Bill) -> Line | None:
        return None

    @consumer("crm.customers", emits="order-placed", registry=registry)
    def customers(record: Record[Line]) -> Order | None:
        return None

    return registry


def resolved(document: dict[str, Any], pointer: str) -> Draft7Validator:
    """The validator of a schema at a place in the document."""
    resource = DRAFT7.create_resource(document)
    documents: Documents[Any] = Documents().with_resource("urn:document", resource)
    return Draft7Validator({"$ref": f"urn:document{pointer}"}, registry=documents)


def test_the_document_is_valid(registry: Registry) -> None:
    """AsyncAPI's own schema of version 3.0.0 finds nothing."""
    document = json.loads(json.dumps(asyncapi(SETTINGS, registry)))
    assert [error.message for error in Draft7Validator(SPECIFICATION).iter_errors(document)] == []


def test_a_broken_document_is_found(registry: Registry) -> None:
    """The schema does look at channels and operations."""
    for path, value in (("channels", {"x": {"messages": 3}}), ("operations", {"x": {"action": "do"}})):
        document = {**asyncapi(SETTINGS, registry), path: value}
        assert list(Draft7Validator(SPECIFICATION).iter_errors(document))


def test_every_reference_leads_somewhere(registry: Registry) -> None:
    """No definition is left behind where a schema moved into the document."""
    document = asyncapi(SETTINGS, registry)

    def references(node: Any) -> list[str]:
        if isinstance(node, dict):
            own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
            return own + [each for value in node.values() for each in references(value)]
        return [each for value in node for each in references(value)] if isinstance(node, list) else []

    found = references(document)
    assert found
    for reference in found:
        node: Any = document
        for name in reference.removeprefix("#/").split("/"):
            node = node[name]


def test_all_topics_and_stages_are_there(registry: Registry) -> None:
    """Channels have the names on Kafka, operations what each stage takes and emits."""
    document = asyncapi(SETTINGS, registry)
    addresses = {name: channel["address"] for name, channel in document["channels"].items()}
    assert addresses == {
        "order-placed": "eu.order-placed",
        "order-billed": "eu.order-billed",
        "line.counted": "eu.line.counted",
        "order-mailed": "eu.order-mailed",
        "crm.customers": "crm.customers",
        "errors": "eu.shop-errors",
        "dlq": "eu.shop-dlq",
        "jobs": "eu.jobs",
    }
    actions = {name: each["action"] for name, each in document["operations"].items()}
    assert actions == {
        **dict.fromkeys(["bill.receive", "count.receive", "mail.receive"], "receive"),
        "customers.receive": "receive",
        **dict.fromkeys(["bill.send", "count.send", "mail.send"], "send"),
        **dict.fromkeys(["errors.send", "dlq.send", "jobs.send"], "send"),
    }
    assert document["servers"]["kafka-2"]["host"] == "b2:9094"
    assert document["servers"]["kafka-1"]["bindings"]["kafka"]["schemaRegistryUrl"] == "https://registry:8081"


def test_payloads_are_as_the_topics_carry_them(registry: Registry) -> None:
    """Avro where it is Avro; the schema of what a stage emits; all schemas where several stages take it."""
    messages = asyncapi(SETTINGS, registry)["components"]["messages"]
    assert messages["order-billed"]["contentType"] == "application/avro"
    assert messages["order-billed"]["payload"]["schema"]["name"] == "Bill"
    assert messages["order-billed"]["bindings"]["kafka"]["schemaIdPayloadEncoding"] == "confluent"
    assert messages["line.counted"]["payload"] == {"type": "integer"}
    assert len(messages["order-placed"]["payload"]["allOf"]) == 2
    assert messages["order-mailed"]["bindings"]["kafka"]["schemaLookupStrategy"] == "TopicNameStrategy"


def test_the_schemas_check_events(registry: Registry) -> None:
    """An event's data and headers pass them, and wrong ones do not."""
    document = json.loads(json.dumps(asyncapi(SETTINGS, registry)))
    payload = resolved(document, "#/components/messages/order-placed/payload")
    order = {"lines": [{"article": "a"}], "placed": "2026-01-01", "pays": "card"}
    payload.validate(order)
    assert not payload.is_valid({**order, "pays": "never"})
    assert not payload.is_valid({**order, "lines": [{}]})
    theirs = resolved(document, "#/components/messages/crm.customers/payload")
    assert theirs.is_valid({"article": "a"})
    assert not theirs.is_valid({})
    headers = resolved(document, "#/components/schemas/event-headers")
    headers.validate({"ce_id": "1", "ce_source": "/shop/bill", "content-type": events.JSON_TYPE})
    assert not headers.is_valid({"ce_jobid": "no spaces here"})


def test_the_version_changes_with_the_contract(registry: Registry) -> None:
    """The same code has the same version; another topic makes another one."""
    before = asyncapi(SETTINGS, registry)["info"]["version"]
    assert asyncapi(SETTINGS, registry)["info"]["version"] == before

    @stage(consumes="order-mailed", registry=registry)
    def archive(line: Line) -> None: ...

    assert asyncapi(SETTINGS, registry)["info"]["version"] != before


def test_the_command_writes_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``pipeline schemas export asyncapi`` prints the document, or writes it."""
    from tests.unit.test_settings import REQUIRED

    for name, value in REQUIRED.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TASK_MODULES", "pipeline.demo.documents")
    printed = CliRunner().invoke(main, ["schemas", "export", "asyncapi"])
    assert printed.exit_code == 0, printed.output
    written = tmp_path / "asyncapi.json"
    saved = CliRunner().invoke(main, ["schemas", "export", "asyncapi", "--output", str(written)])
    assert (saved.exit_code, saved.output) == (0, "")
    assert json.loads(written.read_text()) == json.loads(printed.output)
    assert Draft7Validator(SPECIFICATION).is_valid(json.loads(printed.output))
