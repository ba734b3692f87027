"""Schemas of emitted topics, on Apicurio Registry: registered, compared, looked up, and read by others."""

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer
from confluent_kafka.schema_registry.json_schema import JSONDeserializer
from confluent_kafka.serialization import MessageField, SerializationContext
from pydantic import BaseModel, create_model

from pipeline.author.decorator import stage
from pipeline.author.registry import Registry
from pipeline.checklist import Status, run_checklist
from pipeline.checklist.facts import Facts
from pipeline.errors import ConfigurationError, PermanentError, ServiceRefusedError, ServiceUnavailableError
from pipeline.infra.topicschemas import check_schemas, register_schemas, schema_reports
from pipeline.patience import Patience
from pipeline.registry import Encoder
from pipeline.settings import Settings, load_settings
from tests.registry import RunningRegistry
from tests.unit.test_settings import REQUIRED


class Line(BaseModel):
    article: str
    number: int


OLD = create_model("Bill", lines=list[Line], paid=bool)
#: What a later version may write, and what it may not.
NEW = create_model("Bill", lines=list[Line], paid=bool, note=(str | None, None))
WRONG = create_model("Bill", lines=list[Line], paid=str)
DATA = {"lines": [{"article": "ä", "number": -3}], "paid": True}


class Service:
    """A service whose stage emits bills, in one of its versions, on a topic of the test's own."""

    def __init__(self, url: str, form: str) -> None:
        self.form = form
        self.topic = f"bills-{uuid.uuid4().hex}"
        self.settings: Settings = load_settings(
            {**REQUIRED, "SCHEMA_REGISTRY_URL": url, "KAFKA_TOPIC_BILLS": self.topic}
        )
        self.subject = f"{self.topic}-value"

    def version(self, annotation: Any) -> Registry:
        """The stages of the version that returns this annotation."""
        registry = Registry()

        def bill(order: int) -> Any:
            return order

        bill.__annotations__["return"] = annotation
        define: Callable[..., Any] = stage
        define(consumes="orders", emits="bills", format=self.form, registry=registry)(bill)
        return registry

    def encoded(self, annotation: Any, data: Any) -> bytes:
        """The value that a version writes."""
        made = self.version(annotation).by_name["bill"]
        return Encoder(self.settings, Patience(waits=False)).write(made, json.dumps(data).encode()).value


@pytest.fixture
def vendor(schema_registry: RunningRegistry) -> Iterator[SchemaRegistryClient]:
    """Confluent's own client."""
    client = SchemaRegistryClient({"url": schema_registry.url})
    yield client
    client.close()


@pytest.fixture(params=["avro", "json-schema"])
def service(
    request: pytest.FixtureRequest, schema_registry: RunningRegistry, vendor: SchemaRegistryClient
) -> Service:
    """A service of each format; its subject keeps old data readable, as Confluent's default is."""
    service = Service(schema_registry.url, request.param)
    vendor.set_compatibility(service.subject, "BACKWARD")
    return service


def test_a_schema_is_registered_once(service: Service) -> None:
    """Provision registers it, a second time finds it, and then a process may start."""
    registry = service.version(OLD)
    with pytest.raises(ConfigurationError, match=f'under {service.subject}. Run "pipeline provision"'):
        check_schemas(service.settings, registry)
    assert [report.state for report in schema_reports(service.settings, registry)] == ["new"]
    assert list(register_schemas(service.settings, registry)) == [(service.subject, True)]
    assert list(register_schemas(service.settings, registry)) == [(service.subject, False)]
    check_schemas(service.settings, registry)
    (report,) = schema_reports(service.settings, registry)
    assert (report.state, report.version, report.topic) == ("registered", 1, "bills")


def test_a_compatible_version_lives_beside_the_old_one(
    service: Service, vendor: SchemaRegistryClient
) -> None:
    """Both have an id of their own, both may start, and a reader reads the values of both."""
    for version in (OLD, NEW):
        list(register_schemas(service.settings, service.version(version)))
    for version in (OLD, NEW):
        check_schemas(service.settings, service.version(version))
    old, new = service.encoded(OLD, DATA), service.encoded(NEW, {**DATA, "note": "x"})
    assert old[0] == new[0] == 0
    assert old[1:5] != new[1:5]
    assert service.encoded(OLD, DATA) == old, "the same data has other bytes"
    assert theirs(service, vendor, old) == DATA
    assert theirs(service, vendor, new) == {**DATA, "note": "x"}


def theirs(service: Service, client: SchemaRegistryClient, value: bytes) -> Any:
    """The value that Confluent's own deserializer reads."""
    reader: Any = AvroDeserializer(client) if service.form == "avro" else JSONDeserializer(None, None, client)
    return reader(value, SerializationContext(service.topic, MessageField.VALUE))


def test_an_incompatible_version_is_refused_with_the_reason(service: Service) -> None:
    """Neither provision nor a start takes it; nothing is registered, and the reason names the field."""
    list(register_schemas(service.settings, service.version(OLD)))
    wrong = service.version(WRONG)
    with pytest.raises(ServiceRefusedError, match=r"not compatible .*(paid|fields/1).*Make the change"):
        list(register_schemas(service.settings, wrong))
    with pytest.raises(ConfigurationError, match=r"not compatible .*(paid|fields/1)"):
        check_schemas(service.settings, wrong)
    (report,) = schema_reports(service.settings, wrong)
    assert (report.state, report.version) == ("incompatible", 1)


def test_a_value_that_does_not_fit_asks_no_registry() -> None:
    """It is a permanent failure also while the registry is away."""
    service = Service("http://127.0.0.1:1", "avro")
    with pytest.raises(PermanentError, match="does not fit its topic's Avro schema: paid is"):
        service.encoded(OLD, {**DATA, "paid": 1})


def test_what_a_worker_waits_for(schema_registry: RunningRegistry) -> None:
    """A registry that is away, or lost the schema, is an outage: no result becomes a dead letter for it."""
    with pytest.raises(ServiceUnavailableError, match="SCHEMA_REGISTRY_URL"):
        Service("http://127.0.0.1:1", "avro").encoded(OLD, DATA)
    with pytest.raises(ServiceUnavailableError, match=r'not registered any more. Run "pipeline provision"'):
        Service(schema_registry.url, "avro").encoded(OLD, DATA)


def test_the_checklist_tells_the_state(service: Service) -> None:
    """New: register it. Registered: its version and id. Incompatible: the reason and the fix."""

    def line(annotation: Any) -> Any:
        facts = Facts(service.settings, service.version(annotation), {})
        return next(each for each in run_checklist(facts) if each.id == "kafka.schemas")

    found = line(OLD)
    assert (found.status, found.mend) == (Status.FAIL, 'Run "pipeline provision".')
    list(register_schemas(service.settings, service.version(OLD)))
    found = line(OLD)
    assert found.status is Status.PASS
    assert f"{service.subject} version 1 (id " in found.evidence
    found = line(WRONG)
    assert found.status is Status.FAIL
    assert "paid" in found.evidence or "/fields/1" in found.evidence
    assert "another topic" in found.mend


# ─── commands ───

MODULE = """
from pydantic import BaseModel
from pipeline import stage

class Bill(BaseModel):
    total: {total}

@stage(consumes="orders", emits="bills", format="avro")
def bill(order: int) -> Bill:
    return Bill(total=order)
"""


def test_the_commands_for_ci(
    schema_registry: RunningRegistry, vendor: SchemaRegistryClient, tmp_path: Path
) -> None:
    """0 if it may be registered, 1 with the registry's reason if not, 2 if the registry is away."""
    service = Service(schema_registry.url, "avro")
    vendor.set_compatibility(service.subject, "BACKWARD")
    environment = {
        **REQUIRED,
        "SCHEMA_REGISTRY_URL": schema_registry.url,
        "KAFKA_TOPIC_BILLS": service.topic,
        "TASK_MODULES": "bills",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    module = tmp_path / "bills.py"

    def run(total: str, *arguments: str, **changes: str) -> tuple[int, str]:
        module.write_text(MODULE.format(total=total))
        done = subprocess.run(
            [sys.executable, "-c", "from pipeline.cli import main; main()", *arguments],
            cwd=tmp_path,
            env={**os.environ, **environment, **changes},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
            check=False,
        )
        return done.returncode, done.stdout

    assert run("int", "schemas", "check") == (
        0,
        f"new           avro         bills  {service.subject} (no version yet)\n",
    )
    list(register_schemas(service.settings, service.version(create_model("Bill", total=int))))
    code, output = run("int", "schemas", "list", "--json")
    assert (code, json.loads(output)["state"], json.loads(output)["version"]) == (0, "registered", 1)
    code, output = run("str", "schemas", "check", "--json")
    assert (code, json.loads(output)["state"]) == (1, "incompatible")
    assert "reader type: STRING not compatible with writer type: LONG" in json.loads(output)["reason"]
    code, output = run("int", "schemas", "check", SCHEMA_REGISTRY_URL="http://127.0.0.1:1")
    assert code == 2
    assert output.startswith("Error: http://127.0.0.1:1 did not give")
    code, output = run("int", "schemas", "check", SCHEMA_REGISTRY_URL="")
    assert code == 2
    assert "it emits 'bills' as avro, and SCHEMA_REGISTRY_URL is not set. Set it" in output
