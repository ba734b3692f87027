"""The checklist's lines about clients: a wrong configuration fails its line."""

import json
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from pydantic import SecretStr

from pipeline.author.decorator import stage
from pipeline.author.registry import Registry
from pipeline.checklist import Facts, Status
from pipeline.checklist.kafka import ITEMS as KAFKA
from pipeline.checklist.line import Finding
from pipeline.checklist.run import ITEMS, find
from pipeline.checklist.sqs import ITEMS as SQS
from pipeline.infra.needs import queue_needs, topic_needs
from pipeline.infra.queuepolicy import tls_only_policy
from pipeline.jobs import Pass, TableReport, WriteCapacity
from pipeline.kafka import Cluster, Member, PartitionState, consumer_configuration, producer_configuration
from pipeline.observe.topics import GroupReport
from pipeline.payloads.bucket import BucketReport
from pipeline.schedules.status import ScheduleStatus, State
from pipeline.settings import Settings, load_settings
from tests.unit.test_settings import REQUIRED, TOKENS

SETTINGS = Settings(
    service_name="orders",
    kafka_bootstrap_servers="broker:9094",
    kafka_consumer_group="orders",
    sqs_task_queue_url="https://sqs.eu-west-1.amazonaws.com/1/orders.fifo",
    sqs_dlq_url="https://sqs.eu-west-1.amazonaws.com/1/orders-dlq.fifo",
)
CHECKS = {item.id: partial(find, item) for item in ITEMS}


def facts(settings: Settings = SETTINGS, environ: dict[str, str] | None = None, **known: Any) -> Facts:
    return Facts(settings, Registry(), environ or {}, **known)


@pytest.mark.parametrize(
    ("line", "client", "change"),
    [
        ("kafka.idempotent-producer", "producer", {"enable.idempotence": False}),
        ("kafka.acks-all", "producer", {"acks": "1"}),
        ("kafka.manual-commit", "consumer", {"enable.auto.commit": True}),
        ("kafka.manual-commit", "consumer", {"enable.auto.offset.store": True}),
        ("kafka.read-committed", "consumer", {"isolation.level": "read_uncommitted"}),
        ("kafka.cooperative-sticky", "consumer", {"partition.assignment.strategy": "range"}),
        ("kafka.max-poll-interval", "consumer", {"max.poll.interval.ms": 10_000}),
        ("kafka.client-id", "producer", {"client.id": "orders"}),
        ("kafka.tls", "producer", {"security.protocol": "PLAINTEXT"}),
        ("kafka.snappy", "producer", {"compression.type": "none"}),
    ],
)
def test_a_client_made_wrongly_fails_its_line(line: str, client: str, change: dict[str, Any]) -> None:
    """The clients' own configurations pass; one property changed and the line fails."""
    made: dict[str, Any] = {
        "producer": producer_configuration(SETTINGS, "worker"),
        "consumer": consumer_configuration(SETTINGS, "orders"),
    }
    known: dict[str, Any] = {"topic_configs": {}, "cluster": Cluster(brokers={1: "broker:9094"}, topics={})}
    assert CHECKS[line](facts(**made, **known)).status is Status.PASS
    made[client] |= change
    found = CHECKS[line](facts(**made, **known))
    assert found.status is Status.FAIL
    assert found.mend
    assert str(next(iter(change.values()))) in found.evidence


def test_the_line_of_tls_tells_the_login() -> None:
    """Mechanism and the address of the tokens, never a secret."""
    settings = load_settings({**REQUIRED, **TOKENS})
    known: dict[str, Any] = {"cluster": Cluster(brokers={1: "broker:9094"}, topics={})}
    producer = producer_configuration(settings, "worker")
    evidence = CHECKS["kafka.tls"](facts(settings, producer=producer, **known)).evidence
    assert "KAFKA_SASL_MECHANISM=OAUTHBEARER, tokens from https://login.example.org/token" in evidence
    assert TOKENS["KAFKA_OAUTH_CLIENT_SECRET"] not in evidence


def test_the_lines_are_the_checklists() -> None:
    """Eighteen, thirteen and fifteen, each with an id of its own."""
    assert [len(KAFKA), len(SQS), len(ITEMS)] == [18, 13, 46]
    assert len({item.id for item in ITEMS}) == 46


@pytest.mark.parametrize(
    ("source", "status"),
    [
        ("iam-role", "PASS"),
        ("assume-role", "PASS"),
        ("shared-credentials-file", "WARN"),
        ("sso", "WARN"),
        ("login", "WARN"),
        ("env", "FAIL"),
        (None, "FAIL"),
    ],
)
def test_where_credentials_come_from(source: str | None, status: str) -> None:
    """A role passes, a profile is for development, keys and nothing fail."""
    assert CHECKS["sqs.iam-role"](facts(credentials=source)).status == status


@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"])
def test_any_access_key_fails(name: str) -> None:
    """Other sources of credentials do not matter; and its value is not repeated."""
    found = CHECKS["sqs.iam-role"](facts(environ={name: "hunter2"}, credentials="iam-role"))
    assert found.status is Status.FAIL
    assert name in found.evidence
    assert "hunter2" not in found.evidence + found.mend


@pytest.mark.parametrize(
    ("outcome", "differences", "status"),
    [
        ("missing", (), "FAIL"),
        ("present", ("no lifecycle rule deletes shop/* after 73 days",), "WARN"),
        ("present", (), "PASS"),
    ],
)
def test_the_bucket_of_payloads(outcome: Any, differences: tuple[str, ...], status: str) -> None:
    """It must be there, with a rule that deletes in time; without the setting there is none."""
    report = BucketReport(name="payloads", outcome=outcome, differences=differences)
    assert CHECKS["general.payloads"](facts(bucket=report)).status == status
    assert CHECKS["general.payloads"](facts(bucket=None)).status == "SKIP"


@pytest.mark.parametrize(("seconds", "status"), [(0, "FAIL"), (1, "WARN"), (5, "PASS"), (20, "PASS")])
def test_long_polling(seconds: int, status: str) -> None:
    """Five seconds or more."""
    settings = SETTINGS.model_copy(update={"sqs_wait_time_seconds": seconds})
    assert CHECKS["sqs.long-polling"](facts(settings)).status == status


def test_groups_and_deduplication_ids_are_made_and_compared() -> None:
    """With a parallel and an ordered stage; without any there is nothing to tell."""
    registry = Registry()

    def pay(order: dict[str, int]) -> dict[str, int]:
        return order

    def ship(order: dict[str, int]) -> None: ...

    stage(consumes="received", emits="paid", registry=registry)(pay)
    stage(consumes="paid", ordered=True, registry=registry)(ship)
    made = Facts(SETTINGS, registry, {})
    group = CHECKS["sqs.group-id"](made)
    assert group.status is Status.PASS
    assert "a group each in pay; one group, in order, in ship" in group.evidence
    assert CHECKS["sqs.deduplication-id"](made).status is Status.PASS
    assert CHECKS["general.tracing"](made).status is Status.PASS
    assert CHECKS["sqs.group-id"](facts()).status is Status.SKIP


def test_logs_and_shutdown_are_tried() -> None:
    """A line is written and read back; clients are closed with work at hand."""
    assert CHECKS["general.json-logging"](facts()).status is Status.PASS
    closing = CHECKS["kafka.graceful-shutdown"](facts())
    assert closing.status is Status.PASS, closing.evidence
    assert "delivered 100 of 100" in closing.evidence


def test_plaintext_on_this_machine_is_a_warning() -> None:
    """Nothing can listen in between; elsewhere it fails."""
    local = SETTINGS.model_copy(
        update={
            "kafka_bootstrap_servers": "localhost:9092,127.0.0.1:9093",
            "kafka_security_protocol": "PLAINTEXT",
        }
    )
    assert CHECKS["kafka.tls"](facts(local)).status is Status.WARN
    mixed = local.model_copy(update={"kafka_bootstrap_servers": "localhost:9092,broker:9092"})
    assert CHECKS["kafka.tls"](facts(mixed)).status is Status.FAIL


@pytest.mark.parametrize(
    ("kafka", "sqs", "status", "said"),
    [
        (True, True, "PASS", "KAFKA_ENABLED=true, USE_SQS_TASK_PROCESSING=true"),
        (False, True, "WARN", "nothing is taken from Kafka"),
        (True, False, "WARN", "bridges run the stages themselves"),
    ],
)
def test_what_a_switch_that_is_off_means(kafka: bool, sqs: bool, status: str, said: str) -> None:
    """Each has its own meaning, and is a warning."""
    switched = {"kafka_enabled": kafka, "use_sqs_task_processing": sqs}
    found = CHECKS["general.feature-flags"](facts(SETTINGS.model_copy(update=switched)))
    assert found.status == status
    assert said in found.evidence


def test_a_variable_of_no_topic_is_told() -> None:
    """Misspelt, it would leave a stage on a topic to which nobody writes."""
    registry = Registry()

    def pay(order: dict[str, int]) -> None: ...

    stage(consumes="order-placed", registry=registry)(pay)

    def found(**topics: str) -> Finding:
        settings = SETTINGS.model_copy(update={"topics": topics})
        there = [need.name for need in topic_needs(settings, registry)]
        cluster = Cluster(brokers={1: "broker:9094"}, topics=dict.fromkeys(there, ()))
        return CHECKS["kafka.topic-creation"](
            Facts(settings, registry, {}, cluster=cluster, topic_configs={})
        )

    assert found(ORDER_PLACED="shop.orders").status is Status.SKIP  # a cluster that tells no configuration
    wrong = found(ORDERPLACED="shop.orders")
    assert wrong.status is Status.WARN
    assert "KAFKA_TOPIC_ORDERPLACED is the name of none of them" in wrong.evidence


def _topics(registry: Registry, **changes: str) -> dict[str, Any]:
    """A cluster with all topics as they should be, but for ``changes`` of each one's configuration."""
    needs = topic_needs(SETTINGS, registry)
    state = PartitionState(number=0, leader=1, replicas=(1, 2, 3), in_sync=(1, 2, 3))
    return {
        "cluster": Cluster(brokers={1: "broker:9094"}, topics={need.name: (state,) * 12 for need in needs}),
        "topic_configs": {need.name: {**need.config, **changes} for need in needs},
    }


@pytest.mark.parametrize(
    "more",
    [
        {"retention.ms": "-1"},
        {"retention.ms": "9999999999"},
        {"max.message.bytes": "20971520"},
        {"min.insync.replicas": "3"},
        {"compression.type": "producer"},
    ],
    ids=str,
)
def test_a_topic_may_have_more_than_is_needed(more: dict[str, str]) -> None:
    """One that others own keeps longer, takes larger records, has more partitions: that is as good."""
    found = CHECKS["kafka.topic-creation"](facts(**_topics(Registry(), **more)))
    assert found.status is Status.PASS, found.evidence


@pytest.mark.parametrize(
    "less",
    [
        {"retention.ms": "1000"},
        {"max.message.bytes": "1000"},
        {"min.insync.replicas": "1"},
        {"compression.type": "gzip"},
        {"cleanup.policy": "compact"},
        {"cleanup.policy": "compact,delete"},
    ],
    ids=str,
)
def test_a_topic_with_less_than_is_needed_fails(less: dict[str, str]) -> None:
    """Each is named, with what it should be."""
    found = CHECKS["kafka.topic-creation"](facts(**_topics(Registry(), **less)))
    ((name, value),) = less.items()
    assert found.status is Status.FAIL
    assert f"orders-errors: {name} is {value}, should be" in found.evidence


@pytest.mark.parametrize(("others", "status"), [(903, "PASS"), (904, "WARN")])
def test_a_broker_with_very_many_replicas_is_told(others: int, status: str) -> None:
    """Those of all topics on it count; a service without stages has six topics, 12 partitions each here."""
    known = _topics(Registry())
    state = PartitionState(number=0, leader=1, replicas=(1,), in_sync=(1,))
    known["cluster"].topics["others"] = (state,) * (others + 24)
    found = CHECKS["kafka.partitions"](facts(**known))
    assert found.status == status
    assert found.evidence.startswith("72 partitions in 216 replicas")
    assert f"holds {others + 96:,} replicas" in found.evidence


def _group(bridges: int, problem: str | None = None) -> GroupReport:
    member = Member(client_id="bridge", host="h", partitions=())
    return GroupReport(
        name="orders", state="STABLE", members=(member,) * bridges, partitions=(), lag=0, problem=problem
    )


IAM = SETTINGS.model_copy(update={"kafka_sasl_mechanism": "AWS_MSK_IAM"})


@pytest.mark.parametrize(
    ("workers", "group", "status", "said"),
    [
        (598, _group(3), "PASS", "workers: 598, bridges: 3, which hold about 2,398 connections"),
        (598, _group(4), "WARN", "a restart of all at once takes 24 s"),
        (600, _group(0, "it does not tell"), "WARN", "bridges: unknown"),
        (0, _group(0), "PASS", "leads the control topics, one of 1"),
        (None, _group(0), "SKIP", "no heartbeats of workers could be read within 10 s"),
    ],
)
def test_connections_near_what_a_broker_of_msk_takes_are_told(
    workers: int | None, group: GroupReport, status: str, said: str
) -> None:
    """Four of a worker, two of a bridge: from 80 % of the quota on, where the brokers have one."""
    known = {"workers": workers, "group": group, "cluster": _topics(Registry())["cluster"]}
    found = CHECKS["kafka.connections"](facts(IAM, **known))
    assert found.status == status
    assert said in found.evidence
    assert ("client_iam.max.connections" in found.mend) is (status == "WARN")
    assert CHECKS["kafka.connections"](facts(**known)).status is Status.SKIP


def _queues(**changes: str) -> dict[str, Any]:
    """Queues that are as they should be, but for ``changes`` of each one's attributes."""
    needs = queue_needs(SETTINGS, Registry())
    arn = "arn:aws:sqs:eu-west-1:1:"
    return {
        "queue_attributes": {
            need.url: {"FifoQueue": "true", "QueueArn": arn + need.name, **need.attributes, **changes}
            for need in needs
        }
    }


@pytest.mark.parametrize(
    ("changes", "status", "said"),
    [
        ({}, "PASS", "FifoQueue=true"),
        ({"FifoQueue": "false"}, "FAIL", "standard queue"),
        ({"MessageRetentionPeriod": "345600"}, "FAIL", "should be 1209600 (14 days)"),
        ({"MaximumMessageSize": "262144"}, "FAIL", "262144 bytes"),
        ({"MaximumMessageSize": "2097152"}, "PASS", "FifoQueue=true"),
        ({"VisibilityTimeout": "9000"}, "PASS", "FifoQueue=true"),
        (
            {"FifoThroughputLimit": "perQueue", "DeduplicationScope": "queue"},
            "WARN",
            "300 requests a second of orders-dlq.fifo, orders.fifo",
        ),
        ({"ContentBasedDeduplication": "true"}, "WARN", "ContentBasedDeduplication is true, should be false"),
    ],
)
def test_a_queues_attributes(changes: dict[str, str], status: str, said: str) -> None:
    """Settings that prevent a start fail, slow ones are a warning, and larger values are accepted."""
    found = CHECKS["sqs.fifo"](facts(**_queues(**changes)))
    assert found.status == status
    assert said in found.evidence
    assert bool(found.mend) is (status != "PASS")


@pytest.mark.parametrize(
    ("attributes", "status", "said"),
    [
        ({"ApproximateNumberOfMessagesNotVisible": "0"}, "PASS", "in flight: orders.fifo 0;"),
        ({"ApproximateNumberOfMessagesNotVisible": "95999"}, "PASS", "at 120,000"),
        ({"ApproximateNumberOfMessagesNotVisible": "96000"}, "WARN", "orders.fifo 96,000"),
        ({"ApproximateNumberOfMessages": "96000"}, "SKIP", "no queue of tasks tells"),
    ],
)
def test_messages_in_flight_near_what_a_queue_may_have_are_told(
    attributes: dict[str, str], status: str, said: str
) -> None:
    """From 80 % of the quota on; those of the dead-letter queue do not count, nor do waiting ones."""
    known = _queues(**attributes)
    known["queue_attributes"][SETTINGS.sqs_dlq_url]["ApproximateNumberOfMessagesNotVisible"] = "110000"
    found = CHECKS["sqs.in-flight"](facts(**known))
    assert found.status == status
    assert said in found.evidence
    assert ("queue of its own" in found.mend) is (status == "WARN")


def test_the_fullest_of_several_queues_decides() -> None:
    """The other is told, too."""
    registry = Registry()

    def slow(order: dict[str, int]) -> None: ...

    stage(consumes="received", queue="slow.fifo", registry=registry)(slow)
    needs = queue_needs(SETTINGS, registry)
    counts = {"slow.fifo": "100000", "orders.fifo": "3"}
    known = {
        need.url: {
            "QueueArn": f"arn:aws:sqs:eu-west-1:1:{need.name}",
            "ApproximateNumberOfMessagesNotVisible": counts.get(need.name, "0"),
        }
        for need in needs
    }
    found = CHECKS["sqs.in-flight"](Facts(SETTINGS, registry, {}, queue_attributes=known))
    assert found.status is Status.WARN
    assert "orders.fifo 3" in found.evidence
    assert "slow.fifo 100,000" in found.evidence


def test_attributes_that_a_service_does_not_tell_are_not_judged() -> None:
    """ElasticMQ gives neither retention nor size."""
    known = _queues()
    for attributes in known["queue_attributes"].values():
        for name in ("MessageRetentionPeriod", "MaximumMessageSize", "FifoThroughputLimit"):
            del attributes[name]
    assert CHECKS["sqs.fifo"](facts(**known)).status is Status.PASS


def test_a_table_that_cannot_be_used_fails() -> None:
    """A key of another table, or no index; a difference with which it works is a warning."""
    key = "its key is not pk, sk"
    report = TableReport(name="jobs", outcome="differs", differences=(key,), faults=(key,))
    assert CHECKS["general.job-tracking"](facts(table=report)).status is Status.FAIL
    assert CHECKS["general.job-tracking"](facts(table=replace(report, faults=()))).status is Status.WARN


@pytest.mark.parametrize(("replication", "status"), [(1, "WARN"), (2, "WARN"), (3, "PASS")])
def test_acks_of_all_replicas(replication: int, status: str) -> None:
    """With two replicas and one of them behind, all that are in sync are one."""
    settings = SETTINGS.model_copy(update={"topic_replication_factor": replication})
    found = CHECKS["kafka.acks-all"](facts(settings, producer=producer_configuration(settings, "worker")))
    assert found.status == status


@pytest.mark.parametrize(
    ("servers", "status"),
    [
        ("localhost:9092", "WARN"),
        ("127.0.0.2:9092, [::1]:9092", "WARN"),
        ("localhost.corp.example:9092", "FAIL"),
        ("127.corp.example:9092", "FAIL"),
        ("127.0.0.1.corp.example", "FAIL"),
    ],
)
def test_this_machine_is_known_by_the_whole_name(servers: str, status: str) -> None:
    """A host elsewhere may begin like this one."""
    plain = {"kafka_bootstrap_servers": servers, "kafka_security_protocol": "PLAINTEXT"}
    assert CHECKS["kafka.tls"](facts(SETTINGS.model_copy(update=plain))).status == status


@pytest.mark.parametrize(
    ("name", "url", "status"),
    [
        ("SENTRY_DSN", "https://k@sentry.example.com/1", "PASS"),
        ("AWS_ENDPOINT_URL_SQS", "http://127.0.0.1:9324", "WARN"),
        ("AWS_ENDPOINT_URL_SQS", "http://elasticmq:9324", "FAIL"),
        ("SQS_TASK_QUEUE_URL", "http://sqs.eu-west-1.amazonaws.com/1/a.fifo", "FAIL"),
        ("SENTRY_DSN", "http://k@sentry.example.com/1", "FAIL"),
        # Its host is what follows the @.
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost@collector:4318", "FAIL"),
    ],
)
def test_an_address_without_tls_is_told(name: str, url: str, status: str) -> None:
    """Over the network it fails, on this machine it warns; a DSN, which holds a key, is not repeated."""
    known = {"AWS_ENDPOINT_URL_DYNAMODB": "https://dynamodb.eu-west-1.amazonaws.com", name: url}
    found = CHECKS["general.tls"](facts(endpoints=known))
    assert found.status == status
    assert name in found.evidence
    assert url not in found.evidence + found.mend


def test_every_address_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clients' own endpoints and each variable that names an address."""
    for name, value in {"AWS_DEFAULT_REGION": "eu-west-1", "AWS_ENDPOINT_URL_SQS": "http://queues:1"}.items():
        monkeypatch.setenv(name, value)
    settings = SETTINGS.model_copy(update={"sentry_dsn": SecretStr("https://k@s/1")})
    found = facts(settings, {"VAULT_ADDR": "http://127.0.0.1:8200"}).endpoints
    assert found["AWS_ENDPOINT_URL_SQS"] == "http://queues:1"
    assert found["AWS_ENDPOINT_URL_DYNAMODB"] == "https://dynamodb.eu-west-1.amazonaws.com"
    assert found["VAULT_ADDR"] == "http://127.0.0.1:8200"
    assert found["SENTRY_DSN"] == "https://k@s/1"
    assert found["SQS_DLQ_URL"] == SETTINGS.sqs_dlq_url


@pytest.mark.parametrize(("recovers", "status"), [(True, "PASS"), (False, "WARN"), (None, "SKIP")])
def test_recovery_of_the_table(recovers: bool | None, status: str) -> None:
    """On, off, or not told by an emulator."""
    table = TableReport(name="jobs", outcome="present")
    assert CHECKS["general.recovery"](facts(recovery=recovers, table=table)).status == status


@pytest.mark.parametrize(
    ("wanted", "told", "status", "said"),
    [
        (
            None,
            (4_000, 4_000, False),
            "PASS",
            "takes 4,000 write units a second at once, its index 4,000: 800",
        ),
        (None, (20_000, 4_000, False), "PASS", "its index 4,000: 1,333 jobs of three stages a second"),
        (20_000, (20_000, 40_000, False), "PASS", "4,000 jobs"),
        (20_000, (20_000, 4_000, False), "WARN", "DYNAMODB_WARM_WRITES=20000"),
        (20_000, (4_000, 4_000, True), "PASS", "raising it to 20,000"),
        (20_000, None, "SKIP", "does not tell"),
    ],
)
def test_the_writes_that_a_table_takes_are_told(
    wanted: int | None, told: tuple[int, int, bool] | None, status: str, said: str
) -> None:
    """As jobs a second; a warning while they are fewer than the setting wants."""
    capacity = told and WriteCapacity(provisioned=False, table=told[0], index=told[1], rising=told[2])
    settings = SETTINGS.model_copy(update={"dynamodb_warm_writes": wanted})
    table = TableReport(name="jobs", outcome="present", write_capacity=capacity)
    found = CHECKS["general.write-capacity"](facts(settings, table=table))
    assert found.status == status
    assert said in found.evidence


@pytest.mark.parametrize(
    ("cancelled", "status", "said"),
    [
        (0, "PASS", "each worker reads 0.26 units a second"),
        (0, "PASS", "serves 11,489 workers"),
        (1_000, "PASS", "serves 5,567 workers"),
        (10_000, "WARN", "serves 592 workers"),
    ],
)
def test_the_list_of_cancelled_jobs_has_room_for_many_workers(cancelled: int, status: str, said: str) -> None:
    """It says how many workers one key serves, and warns before a large fleet is refused."""
    table = TableReport(name="jobs", outcome="present")
    found = CHECKS["general.cancelled-jobs"](facts(cancelled=cancelled, table=table))
    assert found.status == status
    assert said in found.evidence


@pytest.mark.parametrize(
    ("rate", "shards", "status", "said"),
    [
        (
            0.0,
            4,
            "PASS",
            "came at 0.0 a second; DYNAMODB_INDEX_SHARDS=4 partitions of the index take 2,000",
        ),
        (999.0, 4, "PASS", "came at 999.0 a second"),
        (1_001.0, 4, "WARN", "DYNAMODB_INDEX_SHARDS=5:"),
        (1_001.0, 16, "PASS", "take 8,000"),
        (1_900.0, 4, "WARN", "DYNAMODB_INDEX_SHARDS=8:"),
        (16_001.0, 64, "WARN", "tables of their own"),
    ],
)
def test_the_shards_of_the_index_are_compared_with_the_jobs_that_come(
    rate: float, shards: int, status: str, said: str
) -> None:
    """A warning, with the number to set, from half of what they take."""
    settings = SETTINGS.model_copy(update={"dynamodb_index_shards": shards})
    found = CHECKS["general.index-shards"](facts(settings, jobs_a_second=rate, index_shards=4))
    assert found.status == status
    assert said in found.evidence + found.mend


@pytest.mark.parametrize(("beyond", "said"), [(True, "with open jobs"), (False, "without open jobs")])
def test_the_shards_that_were_used_once_are_told(beyond: bool, said: str) -> None:
    """So that a person knows when a version that reads four can come back."""
    found = CHECKS["general.index-shards"](facts(jobs_a_second=1.0, index_shards=16, open_beyond=beyond))
    assert found.status is Status.PASS
    assert f"lists read the 16 that were used once, the others {said}" in found.evidence


@pytest.mark.parametrize(
    ("sweep", "status", "said"),
    [
        (None, "SKIP", "no bridge has looked"),
        (Pass(began_at=0.0, seen=900), "SKIP", "no bridge has looked"),
        (Pass(began_at=9e3, ended_at=9e3, took=60.0, open_jobs=1000), "PASS", "1,000 open jobs 17 min ago"),
        (Pass(began_at=0.0, ended_at=100.0, open_jobs=5), "WARN", "5 open jobs 165 min ago"),
        (Pass(began_at=9e3, ended_at=9e3, open_jobs=1_000_000), "WARN", "takes in 1,215,000"),
    ],
)
def test_the_sweep_keeps_up_or_it_is_said(sweep: Pass | None, status: str, said: str) -> None:
    """Before it takes so long that a lost job is found late."""
    found = CHECKS["general.sweep"](facts(sweep=sweep, now=1e4))
    assert found.status == status
    assert said in found.evidence


def a_schedule(state: State, error: str | None = None) -> ScheduleStatus:
    return ScheduleStatus(
        name=f"{state}-one",
        runs="stage one",
        ticks="every 60 s",
        state=state,
        last_tick=60.0,
        fired_at=61.0,
        error=error,
        next_tick=120.0,
    )


@pytest.mark.parametrize(
    ("schedules", "status", "said"),
    [
        ([], "SKIP", "there are no schedules"),
        ([a_schedule("removed")], "SKIP", "there are no schedules"),
        ([a_schedule("active"), a_schedule("paused")], "PASS", "2 schedules, 1 of them paused"),
        ([a_schedule("active"), a_schedule("unattended")], "WARN", "no bridge fires unattended-one"),
        ([a_schedule("active", "ValueError: x")], "WARN", "active-one: ValueError: x"),
    ],
)
def test_schedules_are_fired(schedules: list[ScheduleStatus], status: str, said: str) -> None:
    """Or a line says which are not."""
    found = CHECKS["general.schedules"](facts(schedules=schedules))
    assert found.status == status
    assert said in found.evidence


@pytest.mark.parametrize(
    ("attributes", "encryption", "tls"),
    [
        ({"SqsManagedSseEnabled": "true", "Policy": json.dumps(tls_only_policy("a"))}, "PASS", "PASS"),
        ({"SqsManagedSseEnabled": "false"}, "FAIL", "WARN"),
        ({}, "SKIP", "WARN"),
        (None, "FAIL", "FAIL"),
    ],
)
def test_queues_are_encrypted_and_tls_only(
    attributes: dict[str, str] | None, encryption: str, tls: str
) -> None:
    """Each with its mend; a missing queue fails both."""
    present = None if attributes is None else {"QueueArn": "arn:aws:sqs:r:1:q", **attributes}
    urls = [need.url for need in queue_needs(SETTINGS, Registry())]
    found = facts(queue_attributes=dict.fromkeys(urls, present))
    assert CHECKS["sqs.encryption"](found).status == encryption
    assert CHECKS["sqs.tls-only"](found).status == tls
