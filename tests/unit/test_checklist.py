"""The checklist's lines that look at how clients are made: a wrong configuration fails its line."""

from typing import Any

import pytest

from config.settings import Settings
from pipeline.checklist import Facts, Status
from pipeline.checklist.kafka import ITEMS as KAFKA
from pipeline.checklist.line import Finding
from pipeline.checklist.run import ITEMS
from pipeline.checklist.sqs import ITEMS as SQS
from pipeline.kafka import Cluster, consumer_configuration, producer_configuration
from pipeline.registry import Registry
from pipeline.stages import stage
from pipeline.topology import topic_needs

SETTINGS = Settings(
    service_name="orders",
    kafka_bootstrap_servers="broker:9094",
    kafka_consumer_group="orders",
    sqs_task_queue_url="https://sqs.eu-west-1.amazonaws.com/1/orders.fifo",
    sqs_dlq_url="https://sqs.eu-west-1.amazonaws.com/1/orders-dlq.fifo",
)
CHECKS = {item.id: item.check for item in ITEMS}


def facts(settings: Settings = SETTINGS, environ: dict[str, str] | None = None, **known: Any) -> Facts:
    return Facts(settings, Registry(), environ or {}, **known)


@pytest.mark.parametrize(
    ("line", "client", "change"),
    [
        ("kafka.idempotent-producer", "producer", {"enable.idempotence": False}),
        ("kafka.acks-all", "producer", {"acks": "1"}),
        ("kafka.manual-commit", "consumer", {"enable.auto.commit": True}),
        ("kafka.manual-commit", "consumer", {"enable.auto.offset.store": True}),
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


def test_the_lines_are_the_checklists() -> None:
    """Thirteen, ten and seven, each with an id of its own."""
    assert [len(KAFKA), len(SQS), len(ITEMS)] == [13, 10, 30]
    assert len({item.id for item in ITEMS}) == 30


@pytest.mark.parametrize(
    ("source", "status"),
    [
        ("iam-role", "PASS"),
        ("assume-role", "PASS"),
        ("shared-credentials-file", "WARN"),
        ("env", "FAIL"),
        (None, "FAIL"),
    ],
)
def test_where_credentials_come_from(source: str | None, status: str) -> None:
    """A role passes, a profile is for development, keys and nothing fail."""
    assert CHECKS["sqs.iam-role"](facts(credentials=source)).status == status


@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"])
def test_any_access_key_fails(name: str) -> None:
    """Whatever else gives credentials; and its value is not repeated."""
    found = CHECKS["sqs.iam-role"](facts(environ={name: "hunter2"}, credentials="iam-role"))
    assert found.status is Status.FAIL
    assert name in found.evidence
    assert "hunter2" not in found.evidence + found.mend


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
    assert "KAFKA_TOPIC_ORDERPLACED is of none of them" in wrong.evidence
