"""Provisioning: make what is missing once, compare afterwards, change only on request."""

import json
from collections.abc import Callable

import pytest
from click.testing import CliRunner

from pipeline.author.decorator import stage
from pipeline.author.registry import Registry
from pipeline.cli import main
from pipeline.errors import ConfigurationError, ServiceUnavailableError
from pipeline.infra.provision import Result, provision
from pipeline.jobs import JobStore
from pipeline.jobs.dynamodb import dynamodb_client
from pipeline.kafka import KafkaAdmin
from pipeline.services.environment import Services
from pipeline.settings import Settings
from pipeline.sqs import sqs_client
from pipeline.sqs.queues import change_queue, make_queue, queue_attributes
from tests.conftest import MakeEnvironment, MakeSettings

QUICK = {"SQS_WAIT_TIME_SECONDS": "5"}


def _registry(*, ordered: bool = False, queue: str | None = None, retries: int | None = None) -> Registry:
    registry = Registry()

    @stage(consumes="letters", emits="words", ordered=ordered, time_limit=700.5, registry=registry)
    def read(letter: str) -> str:
        return letter

    @stage(consumes="words", queue=queue, retries=retries, registry=registry)
    def count(word: str) -> int:
        return len(word)

    return registry


@pytest.fixture
def settings(services: Services, make_settings: MakeSettings) -> Settings:
    return make_settings(services, **QUICK)


def _provision(settings: Settings, registry: Registry | None = None, update: bool = False) -> list[Result]:
    return list(provision(settings, registry or _registry(), update=update))


def _by_name(results: list[Result]) -> dict[str, Result]:
    return {result.name: result for result in results}


def test_everything_is_made_once(settings: Settings) -> None:
    """The first run makes every topic, queue and the table; the second finds all of it as it should be."""
    first = _provision(settings)
    assert {result.outcome for result in first} == {"made"}
    assert {(result.kind, result.name) for result in first} == {
        *(("topic", settings.topic(name)) for name in ("letters", "words", "errors", "dlq", "jobs")),
        *(("topic", name) for name in settings.control_topics),
        ("queue", settings.task_queue),
        ("queue", settings.sqs_dlq_url.rsplit("/", 1)[1]),
        ("table", settings.dynamodb_table),
    }
    again = _provision(settings)
    assert [(result.kind, result.name) for result in again] == [(r.kind, r.name) for r in first]
    assert {result.outcome for result in again} == {"present"}


def test_the_task_queue_is_fifo_with_a_way_out(settings: Settings) -> None:
    """High throughput, two weeks, the longest time limit as its visibility, and the DLQ behind it."""
    _provision(settings)
    client = sqs_client(settings)
    queue = queue_attributes(client, settings.sqs_task_queue_url) or {}
    dead_letters = queue_attributes(client, settings.sqs_dlq_url) or {}
    assert queue["FifoQueue"] == dead_letters["FifoQueue"] == "true"
    assert queue["ContentBasedDeduplication"] == "false"
    assert queue["VisibilityTimeout"] == "701"
    assert queue["ReceiveMessageWaitTimeSeconds"] == "5"
    policy = json.loads(queue["RedrivePolicy"])
    assert policy["deadLetterTargetArn"] == dead_letters["QueueArn"]
    assert int(policy["maxReceiveCount"]) == 10 * (settings.max_retries + 1) + 20
    assert "RedrivePolicy" not in dead_letters


def test_a_stages_own_queue_has_its_own_count(settings: Settings) -> None:
    """A stage with more retries and a queue of its own gets that queue, with a higher maxReceiveCount."""
    own = f"{settings.service_name}-own.fifo"
    results = _by_name(_provision(settings, _registry(queue=own, retries=9)))
    assert results[own].outcome == "made"
    policy = json.loads(
        (queue_attributes(sqs_client(settings), settings.queue_url(own)) or {})["RedrivePolicy"]
    )
    assert int(policy["maxReceiveCount"]) == 120


def test_a_queue_that_differs_is_shown_and_stays(settings: Settings) -> None:
    """Every attribute that differs is named; without --update it keeps its value."""
    _provision(settings)
    client, url = sqs_client(settings), settings.sqs_task_queue_url
    change_queue(client, url, {"VisibilityTimeout": "30"})
    shown = _by_name(_provision(settings))[settings.task_queue]
    assert (shown.outcome, shown.differences) == ("differs", ("VisibilityTimeout is 30, should be 701",))
    assert (queue_attributes(client, url) or {})["VisibilityTimeout"] == "30"


def test_a_queue_without_a_way_out_gets_one(local_services: Services, make_settings: MakeSettings) -> None:
    """A queue that somebody made without RedrivePolicy differs, and --update mends it."""
    settings = make_settings(local_services, **QUICK)
    make_queue(sqs_client(settings), settings.sqs_task_queue_url, {})
    shown = _by_name(_provision(settings))[settings.task_queue]
    assert shown.outcome == "differs"
    assert any(text.startswith("RedrivePolicy is not set") for text in shown.differences)
    assert _by_name(_provision(settings, update=True))[settings.task_queue].outcome == "updated"
    assert _by_name(_provision(settings))[settings.task_queue].outcome == "present"


def test_a_queue_elsewhere_is_refused(settings: Settings) -> None:
    """A URL of another account than the one that made the queue is named."""
    other = settings.sqs_task_queue_url.replace("000000000000", "111111111111")
    with pytest.raises(ConfigurationError, match="another account"):
        make_queue(sqs_client(settings), other, {})


KEY = "arn:aws:kms:us-east-1:000000000000:key/0f7a5b3c-1d2e-4f60-8a9b-c0d1e2f3a4b5"


def test_queues_and_table_are_protected(embedded_services: Services, make_settings: MakeSettings) -> None:
    """Made with key, TLS-only policy and recovery; what is lost of them differs, and --update mends it."""
    plain = make_settings(embedded_services, **QUICK)
    https = {
        name: getattr(plain, name).replace("http://", "https://")
        for name in ("sqs_task_queue_url", "sqs_dlq_url")
    }
    settings = plain.model_copy(update={**https, "kms_key_arn": KEY})
    _provision(settings)
    client, url = sqs_client(settings), settings.sqs_task_queue_url
    made = queue_attributes(client, url) or {}
    assert made["KmsMasterKeyId"] == KEY
    assert json.loads(made["Policy"])["Statement"][0]["Resource"] == made["QueueArn"]
    assert {result.outcome for result in _provision(settings)} == {"present"}

    partner = {"Sid": "Partner", "Effect": "Allow", "Principal": "*", "Action": "sqs:SendMessage"}
    lost = {"KmsMasterKeyId": "alias/aws/sqs", "Policy": json.dumps({"Statement": [partner]})}
    change_queue(client, url, lost)
    dynamodb = dynamodb_client()
    dynamodb.update_continuous_backups(
        TableName=settings.dynamodb_table,
        PointInTimeRecoverySpecification={"PointInTimeRecoveryEnabled": False},
    )
    dynamodb.update_table(TableName=settings.dynamodb_table, SSESpecification={"Enabled": False})
    shown = _by_name(_provision(settings))
    assert shown[settings.task_queue].differences == (
        f"KmsMasterKeyId is alias/aws/sqs, should be {KEY}",
        "Policy does not deny requests without TLS",
    )
    assert shown[settings.dynamodb_table].differences == (
        f"it is not encrypted with {KEY}",
        "point-in-time recovery is off: what is deleted or overwritten is gone",
    )
    mended = _by_name(_provision(settings, update=True))
    assert mended[settings.task_queue].outcome == mended[settings.dynamodb_table].outcome == "updated"
    assert {result.outcome for result in _provision(settings)} == {"present"}
    policy = json.loads((queue_attributes(client, url) or {})["Policy"])
    assert [each["Sid"] for each in policy["Statement"]] == ["Partner", "DenyRequestsWithoutTls"]


class TestTopicsOnRealKafka:
    """Settings that the mock cluster cannot store."""

    @pytest.fixture
    def settings(self, local_services: Services, make_settings: MakeSettings) -> Settings:
        return make_settings(local_services)

    def test_topics_are_configured(self, settings: Settings) -> None:
        """Snappy; errors and dead letters a month and larger than any event; the control plane hours."""
        _provision(settings)
        names = [settings.topic(name) for name in ("letters", "errors", "dlq")]
        configs = KafkaAdmin(settings).configs([*names, *settings.control_topics])
        letters, errors, dlq = (configs[name] for name in names)
        assert {config["compression.type"] for config in configs.values()} == {"snappy"}
        assert letters["retention.ms"] == str(7 * 86_400_000)
        assert errors["retention.ms"] == dlq["retention.ms"] == str(30 * 86_400_000)
        assert int(errors["max.message.bytes"]) > 4 * int(letters["max.message.bytes"])
        control = [configs[name]["retention.ms"] for name in settings.control_topics]
        assert control == ["3600000", "10800000", "3600000"]
        assert KafkaAdmin(settings).topics()[settings.control_topics[0]].partitions == 1

    def test_a_topics_configuration_is_changed_with_update(self, settings: Settings) -> None:
        """A setting changed by hand is reported, and corrected only with --update."""
        _provision(settings)
        name = settings.topic("errors")
        KafkaAdmin(settings).configure(name, {"retention.ms": "1000"})
        shown = _by_name(_provision(settings))[name]
        assert (shown.outcome, shown.differences) == (
            "differs",
            ("retention.ms is 1000, should be 2592000000",),
        )
        assert _by_name(_provision(settings, update=True))[name].outcome == "updated"
        assert _by_name(_provision(settings))[name].outcome == "present"

    @pytest.mark.parametrize(("ordered", "partitions"), [(False, 6), (True, 4)])
    def test_partitions_grow_unless_order_rests_on_them(
        self, settings: Settings, ordered: bool, partitions: int
    ) -> None:
        """--update grows a topic, but never one that an ordered stage reads; then it says why."""
        registry = _registry(ordered=ordered)
        _provision(settings, registry)
        more = settings.model_copy(update={"topic_partitions": 6})
        name = settings.topic("letters")
        result = _by_name(_provision(more, registry, update=True))[name]
        assert KafkaAdmin(settings).topics()[name].partitions == partitions
        assert result.outcome == ("differs" if ordered else "updated")
        assert ("read reads it in order" in str(result.differences)) is ordered

    def test_topics_of_no_stage_are_made_with_one_partition(self, settings: Settings) -> None:
        """Errors, dead letters, ends of jobs; those that exist with more are as good, with --update too."""
        names = [settings.topic(name) for name in ("errors", "dlq", "jobs")]
        before = settings.model_copy(update={"service_topic_partitions": 4})
        _provision(before)
        assert {_by_name(_provision(settings, update=True))[name].outcome for name in names} == {"present"}
        topics = KafkaAdmin(settings).topics()
        assert {topics[name].partitions for name in names} == {4}
        young = settings.model_copy(update={"topic_prefix": f"{settings.topic_prefix}young-"})
        _provision(young)
        topics = KafkaAdmin(settings).topics()
        assert {topics[young.topic(name)].partitions for name in ("errors", "dlq", "jobs")} == {1}
        assert topics[young.topic("letters")].partitions == 4

    def test_more_than_is_needed_stays(self, settings: Settings) -> None:
        """A topic that keeps longer, takes larger records and has more partitions: --update takes nothing."""
        _provision(settings)
        name, admin = settings.topic("letters"), KafkaAdmin(settings)
        more = {"retention.ms": "-1", "max.message.bytes": "20971520", "compression.type": "producer"}
        admin.configure(name, more)
        fewer = settings.model_copy(update={"topic_partitions": 2})
        assert _by_name(_provision(fewer, update=True))[name].outcome == "present"
        assert more.items() <= admin.configs([name])[name].items()

    def test_a_topic_with_too_few_replicas_still_takes_records(self, settings: Settings) -> None:
        """No --update asks for more replicas in sync than there are: nothing could be written any more."""
        _provision(settings)
        name = settings.topic("letters")
        three = settings.model_copy(update={"topic_replication_factor": 3})
        result = _by_name(_provision(three, update=True))[name]
        assert result.outcome == "differs"
        assert [text.split(";")[0] for text in result.differences] == ["replication is 1, should be 3"]
        assert KafkaAdmin(settings).configs([name])[name]["min.insync.replicas"] == "1"

    def test_too_many_replicas_name_the_setting(self, settings: Settings) -> None:
        """One broker cannot hold three copies."""
        three = settings.model_copy(update={"topic_replication_factor": 3})
        with pytest.raises(Exception, match="TOPIC_REPLICATION_FACTOR"):
            _provision(three)


@pytest.fixture
def run(
    local_services: Services, make_environment: MakeEnvironment, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str]]:
    """Run ``pipeline provision`` with options; its exit code and output."""
    for name, value in make_environment(local_services).items():
        monkeypatch.setenv(name, value)

    def invoke(*options: str) -> tuple[int, str]:
        result = CliRunner().invoke(main, ["provision", *options])
        return result.exit_code, result.stdout

    return invoke


def test_the_command_prints_a_line_for_each(run: Callable[..., tuple[int, str]]) -> None:
    """First all made, then all present; --json gives the same as objects."""
    code, output = run()
    assert code == 0
    assert {line.split()[0] for line in output.splitlines()} == {"made"}
    code, output = run("--json")
    results = [json.loads(line) for line in output.splitlines()]
    assert (code, {result["outcome"] for result in results}) == (0, {"present"})
    assert {result["kind"] for result in results} == {"topic", "queue", "table"}


def test_update_fails_when_something_stays_different(
    run: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 1 and the reason, so that a deployment notices."""
    run()
    monkeypatch.setenv("TOPIC_REPLICATION_FACTOR", "3")
    assert run()[0] == 0
    code, output = run("--update")
    assert code == 1
    assert "moving replicas is the cluster operator's" in output


def test_services_that_are_away_are_one_line(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """No SQS: the error says what was asked of whom."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_SQS", "http://127.0.0.1:1")
    with pytest.raises(ServiceUnavailableError, match=settings.sqs_dlq_url):
        _provision(settings)
    assert JobStore(settings).schema.inspect().outcome == "missing"
