"""The contract of the schema registry's door, on Apicurio Registry."""

import base64
import sys
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from confluent_kafka.schema_registry import Schema as VendorSchema
from confluent_kafka.schema_registry import SchemaReference, SchemaRegistryClient

from pipeline.errors import ConfigurationError, ServiceRefusedError, ServiceUnavailableError
from pipeline.registry import Reference, Schema, SchemaRegistry
from pipeline.settings import Settings
from tests.builders import settings
from tests.processes import wait_until
from tests.registry import RunningRegistry
from tests.registryguard import guard
from tests.securekafka import KEY_PASSWORD, PASSWORD, PROVIDER, issue
from tests.tokenserver import TokenServer, token_server

ORDER = '{"type":"record","name":"Order","fields":[{"name":"id","type":"long"}]}'
WITH_NOTE = ORDER.replace("]}", ',{"name":"note","type":"string","default":""}]}')
WITH_AMOUNT = ORDER.replace("]}", ',{"name":"amount","type":"int"}]}')


def settings_of(url: str, **variables: str) -> Settings:
    """Settings with this registry."""
    return settings(schema_registry_url=url, **variables)


@pytest.fixture
def door(schema_registry: RunningRegistry) -> Iterator[SchemaRegistry]:
    """The door to the session's registry."""
    with closing(SchemaRegistry(settings_of(schema_registry.url))) as door:
        yield door


@pytest.fixture
def vendor(schema_registry: RunningRegistry) -> Iterator[SchemaRegistryClient]:
    """Confluent's own client of the session's registry."""
    with SchemaRegistryClient({"url": schema_registry.url}) as client:
        yield client


@pytest.fixture
def subject() -> str:
    """A subject of the test's own."""
    return f"orders-{uuid.uuid4().hex}-value"


def test_a_schema_is_found_by_id_and_by_content(door: SchemaRegistry, subject: str) -> None:
    """Registered twice it has one id; under that id the registry has the same text."""
    schema = Schema(kind="AVRO", text=ORDER)
    assert door.find(subject, schema) is None
    assert door.latest(subject) is None
    schema_id = door.register(subject, schema)
    assert door.register(subject, schema) == schema_id
    assert door.find(subject, schema) == (schema_id, 1)
    assert door.schema(schema_id) == schema
    assert door.latest(subject) == (schema_id, 1, schema)
    door.ping()


def test_an_unknown_id_has_no_schema(door: SchemaRegistry) -> None:
    """The registry says that there is none; that is an answer, no error."""
    assert door.schema(2_000_000_000) is None


def test_references_come_in_the_order_of_need(door: SchemaRegistry, vendor: SchemaRegistryClient) -> None:
    """A schema that needs another, which needs a third, comes with both of them."""
    mark = uuid.uuid4().hex

    def text(name: str, needs: str) -> str:
        return f'{{"type":"record","name":"{name}{mark}","fields":[{{"name":"f","type":"{needs}"}}]}}'

    needs: list[SchemaReference] = []
    for name, needed in (("A", "int"), ("B", f"A{mark}"), ("C", f"B{mark}")):
        subject = name + mark
        schema_id = vendor.register_schema(subject, VendorSchema(text(name, needed), "AVRO", needs))
        needs = [SchemaReference(subject, subject, 1)]
    found = door.schema(schema_id)
    assert found is not None
    assert [each.name for each in found.references] == [f"A{mark}", f"B{mark}"]
    assert found.references[0] == Reference(name=f"A{mark}", text=text("A", "int"))


def test_compatibility_is_told_before_and_kept_at_registration(
    door: SchemaRegistry, vendor: SchemaRegistryClient, subject: str
) -> None:
    """A new field with a default may come; one without may not, and is not registered."""
    door.register(subject, Schema(kind="AVRO", text=ORDER))
    vendor.set_compatibility(subject, "BACKWARD")
    good, bad = Schema(kind="AVRO", text=WITH_NOTE), Schema(kind="AVRO", text=WITH_AMOUNT)
    assert door.misfit(subject, good) is None
    assert "amount" in str(door.misfit(subject, bad))
    assert door.misfit(f"{subject}-of-nobody", bad) is None
    with pytest.raises(ServiceRefusedError, match="refused the registration"):
        door.register(subject, bad)
    assert door.find(subject, bad) is None


def test_a_registry_that_is_away_is_unavailable() -> None:
    """Nobody listens: asking again may help."""
    with (
        closing(SchemaRegistry(settings_of("http://127.0.0.1:1"))) as door,
        pytest.raises(ServiceUnavailableError, match="SCHEMA_REGISTRY_URL right"),
    ):
        door.schema(1)


def test_a_wrong_path_is_no_unknown_schema(schema_registry: RunningRegistry) -> None:
    """A server that answers 404 to everything is no registry: nothing may be given up because of it."""
    root = schema_registry.url.partition("/apis")[0]
    with (
        closing(SchemaRegistry(settings_of(root))) as door,
        pytest.raises(ServiceRefusedError, match="correct SCHEMA_REGISTRY_URL"),
    ):
        door.schema(1)


def test_a_missing_certificate_file_is_named(tmp_path: Path) -> None:
    """The client is not made, and the message names the settings."""
    missing = str(tmp_path / "missing.pem")
    variables = {
        "schema_registry_certificate_location": missing,
        "schema_registry_key_location": missing,
    }
    with pytest.raises(ConfigurationError, match="SCHEMA_REGISTRY_CERTIFICATE_LOCATION"):
        SchemaRegistry(settings_of("https://registry.example.org", **variables))


def test_without_the_extra_the_command_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message has the pip command."""
    monkeypatch.setitem(sys.modules, "confluent_kafka.schema_registry", None)
    with pytest.raises(ConfigurationError, match=r"celery-stages\[schemas\]"):
        SchemaRegistry(settings_of("https://registry.example.org"))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Certificates and keys, and the authorities that signed them."""
    return issue(tmp_path_factory.mktemp("certificates"))


def _reads(url: str, **variables: str) -> None:
    """Register a schema and read it by its id."""
    schema = Schema(kind="AVRO", text=ORDER)
    with closing(SchemaRegistry(settings_of(url, **variables))) as door:
        assert door.schema(door.register(f"orders-{uuid.uuid4().hex}-value", schema)) == schema


def test_a_registry_with_an_authority_of_its_own(
    schema_registry: RunningRegistry, files: dict[str, Path]
) -> None:
    """SCHEMA_REGISTRY_CA_LOCATION names it. With another one nothing is read, and the message names it."""
    with guard(schema_registry.url, files["server"]) as url:
        _reads(url, schema_registry_ca_location=str(files["authority"]))
        for variables in ({"schema_registry_ca_location": str(files["stranger"])}, {}):
            with pytest.raises(ServiceUnavailableError, match="SCHEMA_REGISTRY_CA_LOCATION"):
                _reads(url, **variables)


def test_a_registry_that_asks_for_a_password(
    schema_registry: RunningRegistry, files: dict[str, Path]
) -> None:
    """The right one reads; a wrong one is a refusal that names the setting and not the password."""
    good = "Basic " + base64.b64encode(f"orders:{PASSWORD}".encode()).decode()
    known = {"schema_registry_ca_location": str(files["authority"]), "schema_registry_username": "orders"}
    with guard(schema_registry.url, files["server"], admits=lambda given: given == good) as url:
        _reads(url, **known, schema_registry_password=PASSWORD)
        with pytest.raises(ServiceRefusedError, match="SCHEMA_REGISTRY_PASSWORD") as refused:
            _reads(url, **known, schema_registry_password="wrong-one")
        assert "wrong-one" not in str(refused.value)
        with pytest.raises(ServiceRefusedError, match="SCHEMA_REGISTRY_USERNAME"):
            _reads(url, schema_registry_ca_location=str(files["authority"]))


def test_a_registry_that_asks_for_a_certificate(
    schema_registry: RunningRegistry, files: dict[str, Path]
) -> None:
    """A certificate with an encrypted key reads; without one, the message names the setting."""
    known = {"schema_registry_ca_location": str(files["authority"])}
    own = {
        "schema_registry_certificate_location": str(files["certificate"]),
        "schema_registry_key_location": str(files["key"]),
    }
    with guard(schema_registry.url, files["server"], clients=files["authority"]) as url:
        _reads(url, **known, **own, schema_registry_key_password=KEY_PASSWORD)
        with pytest.raises(ServiceUnavailableError, match="SCHEMA_REGISTRY_CERTIFICATE_LOCATION"):
            _reads(url, **known)
        with pytest.raises(ConfigurationError, match="SCHEMA_REGISTRY_KEY_PASSWORD"):
            _reads(url, **known, **own, schema_registry_key_password="wrong-one")


def test_a_registry_that_asks_for_a_token(
    schema_registry: RunningRegistry, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With client credentials a token is got, and renewed; without a token the settings are named."""
    monkeypatch.setenv("SSL_CERT_FILE", str(files["authority"]))
    provider = TokenServer(signer=PROVIDER, subject="orders", client_id="orders", client_secret=PASSWORD)
    with (
        token_server(provider, files["server"]),
        guard(
            schema_registry.url,
            files["server"],
            admits=lambda given: given.startswith("Bearer ") and PROVIDER.signed(given[7:]),
        ) as url,
    ):
        known = {
            "schema_registry_ca_location": str(files["authority"]),
            "schema_registry_token_url": provider.url,
            "schema_registry_client_id": "orders",
        }
        own = known | {"schema_registry_client_secret": PASSWORD}
        _reads(url, **own, schema_registry_scope="schemas")
        assert [form["scope"] for form in provider.asked] == [["schemas"]]
        _reads(url, **own)
        with pytest.raises(ServiceUnavailableError, match="SCHEMA_REGISTRY_CLIENT_SECRET") as unavailable:
            _reads(url, **known, schema_registry_client_secret="wrong-one")
        assert "wrong-one" not in str(unavailable.value)
        provider.seconds, asked = 1, len(provider.asked)
        with closing(SchemaRegistry(settings_of(url, **own))) as door:
            wait_until(
                lambda: door.schema(2_000_000_000) is None and len(provider.asked) > asked + 1,
                "the token is renewed",
            )
        monkeypatch.setenv("SSL_CERT_FILE", str(files["stranger"]))
        with pytest.raises(ServiceUnavailableError, match="SSL_CERT_FILE"):
            _reads(url, **own)
