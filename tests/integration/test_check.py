"""``pipeline check``: every line of the production checklist, and each fault found by its line."""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import boto3
import pytest
from click.testing import CliRunner, Result

from pipeline.author.loading import load_stages
from pipeline.author.registry import Registry
from pipeline.checklist import Facts
from pipeline.cli import main
from pipeline.infra.provision import provision
from pipeline.kafka import KafkaAdmin
from pipeline.services.environment import Services
from pipeline.settings import Settings, load_settings
from tests.conftest import MakeEnvironment
from tests.processes import free_port

Lines = dict[str, dict[str, Any]]
Check = Callable[..., Lines]

SECTIONS = {"Kafka": 18, "SQS": 13, "General": 15}


@pytest.fixture(scope="module")
def provisioned(local_services: Services, make_environment: MakeEnvironment) -> dict[str, str]:
    """A provisioned service, set as production would be but for TLS, replicas and a role."""
    return _provision(local_services, make_environment)


def _provision(services: Services, make_environment: MakeEnvironment) -> dict[str, str]:
    environment = make_environment(
        services,
        TASK_MODULES="pipeline.demo.documents",
        SQS_WAIT_TIME_SECONDS="5",
        HEALTH_PORT="8080",
    )
    with pytest.MonkeyPatch.context() as patch:
        _use(environment, patch)
        list(provision(load_settings(environment), load_stages(("pipeline.demo.documents",))))
    return environment


def _use(environment: Mapping[str, str], patch: pytest.MonkeyPatch) -> None:
    """Let boto3 of this process find the services."""
    for name, value in environment.items():
        if name.startswith("AWS_"):
            patch.setenv(name, value)


@pytest.fixture
def environment(provisioned: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """That service, which a test leaves as it was."""
    _use(provisioned, monkeypatch)
    return provisioned


@pytest.fixture
def settings(environment: dict[str, str]) -> Settings:
    return load_settings(environment)


@pytest.fixture
def check(environment: dict[str, str]) -> Check:
    """Runs ``pipeline check --json`` and gives the lines by id."""

    def check(code: int = 1, **variables: str) -> Lines:
        result = CliRunner().invoke(main, ["check", "--json"], env={**environment, **variables})
        assert result.exit_code == code, result.output
        return {line["id"]: line for line in json.loads(result.stdout)}

    return check


def failing(lines: Lines) -> set[str]:
    return {name for name, line in lines.items() if line["status"] == "FAIL"}


def test_a_provisioned_service_passes(check: Check) -> None:
    """All lines in order, each with evidence; what is not production on one machine is a warning."""
    lines = check(code=0)
    counts = {section: sum(line["section"] == section for line in lines.values()) for section in SECTIONS}
    assert counts == SECTIONS
    assert all(
        list(line) == ["id", "section", "title", "status", "evidence", "mend"] for line in lines.values()
    )
    assert all(line["evidence"] for line in lines.values())
    not_passed = {name: line["status"] for name, line in lines.items() if line["status"] != "PASS"}
    # The broker has the topics of all tests, which are more than a small one of MSK should have.
    not_passed.pop("kafka.partitions", None)
    assert not_passed == {
        "kafka.acks-all": "WARN",
        "kafka.tls": "WARN",
        "kafka.schemas": "SKIP",
        "kafka.connections": "SKIP",
        "kafka.schema-registry": "SKIP",
        "sqs.iam-role": "WARN",
        "sqs.encryption": "SKIP",
        "sqs.tls-only": "SKIP",
        "general.payloads": "SKIP",
        "general.recovery": "SKIP",
        "general.write-capacity": "SKIP",
        "general.sweep": "SKIP",
        "general.schedules": "SKIP",
        "general.tls": "WARN",
    }
    assert all(line["mend"] for line in lines.values() if line["status"] in ("WARN", "FAIL"))


def test_workers_are_counted_by_their_heartbeats(settings: Settings) -> None:
    """None of this service runs: that is read, and is not the same as unknown."""
    assert Facts(settings, Registry(), {}).workers == 0


def test_a_lost_redrive_policy_fails(check: Check, settings: Settings) -> None:
    """Without it a task that no worker survives comes back for ever."""
    bare = boto3.client("sqs").create_queue(
        QueueName=f"{settings.service_name}-bare.fifo",
        Attributes={"FifoQueue": "true", "VisibilityTimeout": "300"},
    )
    lines = check(SQS_TASK_QUEUE_URL=bare["QueueUrl"])
    assert failing(lines) == {"sqs.dlq"}
    assert "has no RedrivePolicy" in lines["sqs.dlq"]["evidence"]
    assert "pipeline provision --update" in lines["sqs.dlq"]["mend"]


def test_a_standard_queue_fails(check: Check, settings: Settings) -> None:
    """SQS itself is asked whether the queue is FIFO; its name need not say so."""
    url = boto3.client("sqs").create_queue(QueueName=f"{settings.service_name}-standard")["QueueUrl"]
    lines = check(SQS_TASK_QUEUE_URL=url)
    assert "sqs.fifo" in failing(lines)
    assert "standard queue" in lines["sqs.fifo"]["evidence"]


def test_access_keys_in_the_environment_fail(check: Check) -> None:
    """Their names are told, never their values."""
    lines = check(AWS_ACCESS_KEY_ID="AKIAEXAMPLE", AWS_SECRET_ACCESS_KEY="hunter2")
    assert failing(lines) == {"sqs.iam-role"}
    assert "AWS_SECRET_ACCESS_KEY" in lines["sqs.iam-role"]["evidence"]
    assert "hunter2" not in json.dumps(lines)
    assert "AKIAEXAMPLE" not in json.dumps(lines)


def test_a_topic_with_wrong_retention_fails(
    check: Check, local_services: Services, make_environment: MakeEnvironment
) -> None:
    """Errors must be kept for thirty days, and a stage's topic as the settings say."""
    own = _provision(local_services, make_environment)
    settings = load_settings(own)
    KafkaAdmin(settings).configure(settings.topic("errors"), {"retention.ms": "86400000"})
    KafkaAdmin(settings).configure(settings.topic("document-received"), {"retention.ms": "1000"})
    lines = check(**own)
    assert failing(lines) == {"kafka.error-topic", "kafka.topic-creation"}
    assert "retention.ms=86400000 (1 days)" in lines["kafka.error-topic"]["evidence"]
    assert "retention.ms is 1000, should be 604800000" in lines["kafka.topic-creation"]["evidence"]


def test_missing_things_fail(check: Check) -> None:
    """A service that was never provisioned: topics, queues and table are each named."""
    lines = check(SERVICE_NAME="never-was", TOPIC_PREFIX="never-was-", DYNAMODB_TABLE="never-was")
    assert {"kafka.error-topic", "kafka.topic-creation", "general.job-tracking"} <= failing(lines)
    assert "never-was-document-received" in lines["kafka.topic-creation"]["evidence"]


def test_no_service_at_all_fails_in_time(check: Check) -> None:
    """Brokers and SQS away: the lines that ask them say so; the others are checked as ever."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    lines = check(KAFKA_BOOTSTRAP_SERVERS=f"127.0.0.1:{port}", AWS_ENDPOINT_URL_SQS=url)
    assert lines["kafka.error-topic"]["status"] == "FAIL"
    assert lines["sqs.fifo"]["status"] == "FAIL"
    assert f"Could not reach 127.0.0.1:{port}" in lines["kafka.error-topic"]["evidence"]
    assert "correct KAFKA_BOOTSTRAP_SERVERS" in lines["kafka.error-topic"]["evidence"]
    assert lines["kafka.idempotent-producer"]["status"] == "PASS"
    assert lines["general.job-tracking"]["status"] == "PASS"


def test_a_side_that_is_switched_off_is_skipped(check: Check) -> None:
    """For gradual rollout: what is not used is not asked for, and the flags' line says so."""
    lines = check(code=0, KAFKA_ENABLED="false", KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1")
    assert lines["kafka.error-topic"]["status"] == "SKIP"
    assert lines["general.feature-flags"]["status"] == "WARN"


def test_people_get_a_line_each(environment: dict[str, str]) -> None:
    """Sections, evidence and mend, and how many of each at the end."""
    result: Result = CliRunner().invoke(main, ["check"], env=environment)
    assert result.exit_code == 0, result.output
    assert "PASS  Idempotent producer: the producer is made with enable.idempotence=True" in result.stdout
    assert "→ " in result.stdout
    counts = re.fullmatch(r"(\d+) PASS, (\d+) WARN, 0 FAIL, (\d+) SKIP", result.stdout.splitlines()[-1])
    assert counts, result.stdout
    assert sum(map(int, counts.groups())) == sum(SECTIONS.values())
