"""Services for tests: started once a session when first asked for, and names of its own for each test."""

import os
import signal
import uuid
from collections.abc import Iterator
from typing import Protocol

import hypothesis
import pytest

from pipeline.services import jars
from pipeline.services.embedded import embedded_services as run_embedded_services
from pipeline.services.environment import Services
from pipeline.services.local import local_services as run_local_services
from pipeline.settings import Settings, load_settings
from tests.registry import RunningRegistry, registry

# A shell that starts the tests in its background lets them ignore Ctrl-C, and so would all that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)

# A busy machine takes its time; how long one example took says nothing.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option of the long suite."""
    parser.addoption("--both-sets", action="store_true", help="run the tests marked one_set on both sets")


def pytest_configure(config: pytest.Config) -> None:
    """Declare the mark."""
    config.addinivalue_line(
        "markers",
        "one_set: runs on the local services only, since the contracts show that both sets behave the same",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the embedded variant of tests that one set is enough for."""
    if not config.getoption("both_sets"):
        items[:] = [item for item in items if not (item.get_closest_marker("one_set") and _on_embedded(item))]


def _on_embedded(item: pytest.Item) -> bool:
    callspec = getattr(item, "callspec", None)
    return callspec is not None and callspec.params.get("services") == "embedded"


class MakeEnvironment(Protocol):
    """The type of the ``make_environment`` fixture."""

    def __call__(self, services: Services, **variables: str) -> dict[str, str]:
        """The whole environment of a subprocess that uses ``services`` under names of its own."""


class MakeSettings(Protocol):
    """The type of the ``make_settings`` fixture."""

    def __call__(self, services: Services, **variables: str) -> Settings:
        """Settings for ``services`` under names of its own; ``variables`` as in the environment."""


@pytest.fixture(scope="session")
def embedded_services() -> Iterator[Services]:
    """The embedded services, shared by the session."""
    with run_embedded_services() as services:
        yield services


@pytest.fixture(scope="session")
def local_programs() -> None:
    """Skip without java or mvn; fail where CI=true promises them."""
    if missing := jars.missing_programs(jars.versions()):
        reason = f"the local services need {' and '.join(missing)}, not found on PATH"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture(scope="session")
def local_services(local_programs: None) -> Iterator[Services]:
    """Kafka, ElasticMQ and DynamoDB Local in a temporary folder, shared by the session."""
    with run_local_services() as services:
        yield services


@pytest.fixture(scope="session")
def schema_registry(local_programs: None) -> Iterator[RunningRegistry]:
    """Apicurio Registry in a temporary folder, shared by the session."""
    with registry() as running:
        yield running


@pytest.fixture(scope="session", params=["embedded", "local"])
def services(request: pytest.FixtureRequest) -> Services:
    """Each set of services in turn: one suite, both sets."""
    services: Services = request.getfixturevalue(f"{request.param}_services")
    return services


@pytest.fixture(scope="session")
def make_environment() -> MakeEnvironment:
    """A function that gives a subprocess's environment for some services, with unique names."""
    return _environment


@pytest.fixture
def make_settings(monkeypatch: pytest.MonkeyPatch) -> MakeSettings:
    """A function that gives settings for some services, with unique names.

    boto3 finds the services through its own variables, so those are set in this process until the test ends.
    """

    def make(services: Services, **variables: str) -> Settings:
        environment = _environment(services, **variables)
        for name, value in environment.items():
            if name.startswith("AWS_"):
                monkeypatch.setenv(name, value)
        return load_settings(environment)

    return make


def _environment(services: Services, **variables: str) -> dict[str, str]:
    name = f"test-{uuid.uuid4().hex[:12]}"
    queues = services.environment["SQS_TASK_QUEUE_URL"].rsplit("/", 1)[0]
    own = {
        "SERVICE_NAME": name,
        "TOPIC_PREFIX": f"{name}-",
        "KAFKA_CONSUMER_GROUP": name,
        "SQS_TASK_QUEUE_URL": f"{queues}/{name}-tasks.fifo",
        "SQS_DLQ_URL": f"{queues}/{name}-dlq.fifo",
        "DYNAMODB_TABLE": f"{name}-jobs",
        # Four is what the mock cluster makes of every topic.
        "TOPIC_PARTITIONS": "4",
        "SQS_WAIT_TIME_SECONDS": "1",
    }
    inherited = {
        key: value
        for key, value in os.environ.items()
        if key not in _SETTINGS and not key.startswith(("KAFKA_", "AWS_"))
    }
    return {**inherited, **services.environment, **own, **variables}


_SETTINGS = {field.upper() for field in Settings.model_fields}
