"""``pipeline monitor`` on real services: it shows the true state, and removes nothing."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import CliRunner, Result

from pipeline.author.decorator import stage
from pipeline.author.loading import load_stages
from pipeline.author.registry import Registry
from pipeline.cli import main
from pipeline.infra.provision import provision
from pipeline.kafka import EventConsumer, EventProducer, OutgoingRecord, Partition, ReceivedRecord
from pipeline.services.environment import Services
from pipeline.settings import Settings, load_settings
from pipeline.sqs import OutgoingMessage, SqsQueue, sqs_client
from tests.conftest import MakeEnvironment
from tests.processes import PATIENCE

Run = Callable[..., Result]


@pytest.fixture
def environment(services: Services, make_environment: MakeEnvironment) -> dict[str, str]:
    return make_environment(services, TASK_MODULES="pipeline.demo.documents")


@pytest.fixture
def settings(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings of a provisioned service."""
    for name, value in environment.items():
        if name.startswith("AWS_"):
            monkeypatch.setenv(name, value)
    settings = load_settings(environment)
    list(provision(settings, load_stages(("pipeline.demo.documents",))))
    return settings


@pytest.fixture
def run(settings: Settings, environment: dict[str, str]) -> Run:
    def run(*arguments: str, code: int = 0) -> Result:
        result = CliRunner().invoke(main, ["monitor", *arguments], env=environment)
        assert result.exit_code == code, result.output
        return result

    return run


def view(result: Result) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def emit(settings: Settings, topic: str, values: list[bytes]) -> None:
    producer = EventProducer(settings, "test")
    records = [
        OutgoingRecord(topic=topic, key=b"order-1", value=value, headers=(("ce_type", b"paid"),))
        for value in values
    ]
    assert producer.emit(records, PATIENCE) == [None] * len(values)
    producer.close(5)


def consume(settings: Settings, topic: str, count: int) -> EventConsumer:
    """A member of the service's group that has read some records and committed the first."""
    consumer = EventConsumer(
        settings,
        [topic],
        settings.kafka_consumer_group,
    )
    found: list[ReceivedRecord] = []
    deadline = time.monotonic() + PATIENCE
    while len(found) < count:
        assert time.monotonic() < deadline
        found += consumer.poll(10, 0.2)
    first = found[0]
    consumer.commit({Partition(first.topic, first.partition): first.offset + 1})
    assert consumer.flush(PATIENCE)
    return consumer


def test_kafka_shows_topics_messages_and_lag(run: Run, settings: Settings, services: Services) -> None:
    """Newest records as JSON with headers, marks and lag of each partition, configuration, members."""
    topic = settings.topic("document-received")
    emit(settings, topic, [b'{"n": 1}', b'{"n": 2}', b"\xff\x00"])
    consumer = consume(settings, topic, 3)
    try:
        shown = view(
            run(
                "kafka", "--topics", topic, "--show-messages", "2",
                "--consumer-groups", settings.kafka_consumer_group, "--json",
            )
        )  # fmt: skip
    finally:
        consumer.close()
    [found] = shown["topics"]
    assert found["name"] == topic
    assert sum(each["high"] - each["low"] for each in found["partitions"]) == 3
    assert all(each["leader"] in each["isr"] for each in found["partitions"])
    assert [message["value"] for message in found["messages"]] == [{"n": 2}, {"base64": "/wA="}]
    assert found["messages"][0]["headers"] == {"ce_type": "paid"}
    assert found["messages"][0]["key"] == "order-1"
    [group] = shown["groups"]
    assert group["name"] == settings.kafka_consumer_group
    if services.name == "local":
        assert found["config"]["compression.type"] == "snappy"
        assert group["lag"] == 2
        assert group["state"] == "STABLE"
        assert settings.service_name in group["members"][0]["client_id"]
        [behind] = [each for each in group["partitions"] if each["lag"]]
        assert behind["committed"] == behind["high"] - 2


def test_kafka_shows_the_service_without_an_option(run: Run, settings: Settings) -> None:
    """Its topics and its group, for people; every topic of the cluster when asked."""
    text = run("kafka").stdout
    assert settings.topic("errors") in text
    assert f"group {settings.kafka_consumer_group}: " in text
    brief = run("kafka", "--list-all-topics").stdout
    assert settings.topic("errors") in brief
    assert "leader" not in brief


def test_a_group_that_never_began_is_behind_by_all_there_is(run: Run, settings: Settings) -> None:
    """Nothing committed and no member is no lag of 0: every topic that the stages consume counts."""
    topic = settings.topic("document-received")
    emit(settings, topic, [b"1", b"2", b"3"])
    for options in ((), ("--consumer-groups", settings.kafka_consumer_group)):
        [group] = view(run("kafka", *options, "--json"))["groups"]
        assert group["lag"] == 3
        assert {each["committed"] for each in group["partitions"] if each["topic"] == topic} == {None}


def test_groups_can_be_listed(run: Run, settings: Settings, services: Services) -> None:
    """--consumer-groups without a name shows every group."""
    if services.name == "embedded":
        pytest.skip("librdkafka's mock cluster does not list groups")
    topic = settings.topic("document-received")
    emit(settings, topic, [b"1"])
    consume(settings, topic, 1).close()
    shown = view(run("kafka", "--consumer-groups", "--json"))
    assert shown["topics"] == []
    [group] = [each for each in shown["groups"] if each["name"] == settings.kafka_consumer_group]
    assert (group["state"], group["lag"]) == ("EMPTY", 0)


def test_sqs_shows_dead_letters_and_leaves_them(run: Run, settings: Settings) -> None:
    """Depths, a sample with reasons, attempts; looking again shows the same."""
    dlq = SqsQueue(sqs_client(settings), settings.sqs_dlq_url)
    dead = [
        OutgoingMessage(
            body='{"headers": {"task": "extract", "pipeline": {"job_id": "j1"}}}',
            group_id=f"g{number}",
            deduplication_id=f"d{number}",
            attributes={"reason": "no such file", "attempts": attempts},
        )
        for number, attempts in enumerate(["4", "4", "1"])
    ]
    assert dlq.send(dead) == [None] * 3
    for _ in range(2):
        shown = view(run("sqs", "--json"))
        assert shown["dlq"]["depth"] == 3
        assert shown["dlq"]["attempts_histogram"] == {"1": 1, "4": 2}
        sample = shown["dlq"]["sample"][0]
        assert (sample["task"], sample["job_id"]) == ("extract", "j1")
        assert sample["attributes"]["reason"] == "no such file"
        assert shown["dlq"]["oldest_seconds"] >= 0
    assert dlq.depth().available == 3
    text = run("sqs").stdout
    assert "dead letters: 3" in text
    assert "attempts of these: 1 with 1, 2 with 4" in text


def test_a_queue_of_a_stage_s_own_is_shown(
    run: Run, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is where tasks wait that no worker takes, as nobody started one with -Q."""
    registry, name = Registry(), f"{settings.service_name}-slow.fifo"

    @stage(consumes="document-received", queue=name, registry=registry)
    def ponder(data: int) -> None: ...

    list(provision(settings, registry))
    slow = SqsQueue(sqs_client(settings), settings.queue_url(name))
    assert slow.send([OutgoingMessage(body="x", group_id="g", deduplication_id="d")]) == [None]
    monkeypatch.setattr("pipeline.cli.monitor.read_stages", lambda _: registry)
    shown = view(run("sqs", "--json"))["queues"]
    assert [(queue["name"], queue["role"], queue["available"]) for queue in shown] == [
        (settings.task_queue, "tasks", 0),
        (name, "tasks", 1),
        (settings.sqs_dlq_url.rsplit("/", 1)[1], "dlq", 0),
    ]


def test_the_live_queue_is_looked_at_only_with_a_warning(run: Run, settings: Settings) -> None:
    """A receive on a live FIFO queue has effects, which are said before it is made."""
    queue = SqsQueue(sqs_client(settings), settings.sqs_task_queue_url)
    assert queue.send([OutgoingMessage(body="x", group_id="g", deduplication_id="d")]) == [None]
    assert "live" not in view(run("sqs", "--json"))
    result = run("sqs", "--live", "--json")
    assert "no worker gets its message group" in result.stderr.replace("\n", " ")
    assert view(result)["live"]["sample"][0]["body"] == "x"
    assert queue.depth().available == 1


def test_watch_tells_the_trend(run: Run, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look every interval with what changed since the last; Ctrl-C ends it."""
    dlq = SqsQueue(sqs_client(settings), settings.sqs_dlq_url)
    looks: list[int] = []

    def between(_: float) -> None:
        looks.append(1)
        if len(looks) == 1:
            dlq.send([OutgoingMessage(body="x", group_id="g", deduplication_id="d")])
        if len(looks) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.cli.monitor.time.sleep", between)
    lines = [json.loads(line) for line in run("sqs", "--watch", "--json", code=130).stdout.splitlines()]
    assert [line["dlq"]["depth"] for line in lines] == [0, 1]
    assert [line["dlq"]["trend"] for line in lines] == [None, "rising"]
    assert lines[1]["dlq"]["per_minute"] > 0


@pytest.mark.parametrize("kind", ["kafka", "sqs"])
def test_the_monitors_are_modules_too(kind: str, settings: Settings, environment: dict[str, str]) -> None:
    """python -m pipeline.cli.kafka_monitor and sqs_monitor take the same flags."""
    result = subprocess.run(
        [sys.executable, "-m", f"pipeline.cli.{kind}_monitor", "--json"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)
