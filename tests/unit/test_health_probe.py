"""Probes: an answer comes in time, whatever a dependency does, and leaks nothing."""

import asyncio
import threading
import time
from typing import Any, Literal

import pytest

from pipeline.observe import probe
from pipeline.observe.endpoints import report_json
from pipeline.observe.probe import Probe, Probes
from pipeline.observe.reports import (
    DynamodbReport,
    HealthReport,
    KafkaReport,
    QueueReading,
    Report,
    SqsReport,
    Status,
)


def test_a_dependency_that_hangs_is_unhealthy_in_time() -> None:
    """A caller is answered after the time-out; a second caller needs no second thread."""
    release, calls = threading.Event(), []

    def hang() -> KafkaReport:
        calls.append(1)
        release.wait(20)
        return KafkaReport(status="healthy")

    async def ask_twice() -> list[KafkaReport]:
        probe = Probe("Kafka", KafkaReport, hang, timeout=0.2)
        return [await probe.report(), await probe.report()]

    started = time.monotonic()
    answers = asyncio.run(ask_twice())
    release.set()
    assert time.monotonic() - started < 15
    assert len(calls) == 1
    assert {(each.status, each.error) for each in answers} == {
        ("unhealthy", "Kafka did not answer within 0.2 s")
    }
    assert answers[0].since == answers[1].since


def test_the_loop_is_never_blocked() -> None:
    """While a report is made other requests are answered."""
    others_answered = threading.Event()

    def slow() -> KafkaReport:
        return KafkaReport(status="healthy" if others_answered.wait(20) else "unhealthy")

    async def others_meanwhile() -> KafkaReport:
        report = asyncio.ensure_future(Probe("Kafka", KafkaReport, slow, timeout=30).report())
        for _ in range(10):
            await asyncio.sleep(0)
        others_answered.set()
        return await report

    assert asyncio.run(others_meanwhile()).status == "healthy"


def test_a_report_serves_all_who_ask_within_its_lifetime() -> None:
    """A hundred load balancers cost what one does; after a second it is made anew."""
    calls: list[int] = []

    def count() -> KafkaReport:
        calls.append(1)
        return KafkaReport(status="healthy")

    async def ask() -> None:
        probe = Probe("SQS", KafkaReport, count, lifetime=1)
        await asyncio.gather(*(probe.report() for _ in range(100)))
        assert len(calls) == 1
        await asyncio.sleep(1.05)
        await probe.report()

    asyncio.run(ask())
    assert len(calls) == 2


def test_what_a_strange_error_says_is_not_answered() -> None:
    """An error that is not this project's own may hold a secret: only its class is told."""

    def leak() -> KafkaReport:
        raise ValueError("password=hunter2")

    answer = asyncio.run(Probe("Kafka", KafkaReport, leak).report())
    assert answer.status == "unhealthy"
    assert answer.error
    assert "ValueError" in answer.error
    assert "hunter2" not in str(answer)


@pytest.mark.parametrize(
    ("kafka", "sqs", "worst"),
    [
        ("healthy", "healthy", "healthy"),
        ("healthy", "degraded", "degraded"),
        ("unhealthy", "degraded", "unhealthy"),
    ],
)
def test_the_worst_dependency_decides(kafka: Status, sqs: Status, worst: Status) -> None:
    """Unhealthy before degraded before healthy."""
    report = HealthReport(
        kafka=KafkaReport(status=kafka), sqs=SqsReport(status=sqs), dynamodb=DynamodbReport(status="healthy")
    )
    assert report.status == worst


def test_an_outage_that_nobody_asks_about_has_its_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server asks by itself: who comes later is told when it began, not when they came."""
    monkeypatch.setattr(probe, "WATCH", 0.02)
    asked: list[float] = []

    def away() -> KafkaReport:
        asked.append(time.time())
        return KafkaReport.unhealthy("away")

    async def come_late() -> tuple[float, float | None]:
        probes = Probes(
            kafka=Probe("Kafka", KafkaReport, away, lifetime=0),
            sqs=Probe("SQS", SqsReport, SqsReport.off),
            dynamodb=Probe("DynamoDB", DynamodbReport, DynamodbReport.off),
        )
        watching = asyncio.create_task(probes.watch())
        while len(asked) < 2:  # by then, the first report has been taken
            await asyncio.sleep(0.01)
        came_at = time.time()
        report = await probes.report()
        watching.cancel()
        return came_at, report.kafka.since

    came_at, since = asyncio.run(come_late())
    assert since is not None
    assert since <= asked[0] < came_at


def test_a_report_says_when_its_problem_began() -> None:
    """Since when stays the same while it lasts, whoever asks; it is gone with the problem."""
    good, bad = KafkaReport(status="healthy"), KafkaReport.unhealthy("away")
    answers = [good, bad, bad, good]

    async def ask() -> list[float | None]:
        probe = Probe("Kafka", KafkaReport, lambda: answers.pop(0), lifetime=0)
        return [(await probe.report()).since for _ in range(4)]

    before = time.time()
    well, first, second, again = asyncio.run(ask())
    assert well is again is None
    assert first is not None
    assert second == first
    assert before <= first <= time.time()


DEPTHS = {"messages_available": 3, "messages_in_flight": 2, "messages_delayed": 1}


def reading(name: str, role: Literal["tasks", "dlq"] = "tasks") -> QueueReading:
    return QueueReading(name=name, role=role, available=3, in_flight=2, delayed=1)


@pytest.mark.parametrize(
    ("report", "body"),
    [
        (KafkaReport.off(), {"status": "healthy", "enabled": False}),
        (KafkaReport.unhealthy("away"), {"status": "unhealthy", "error": "away"}),
        (
            KafkaReport(status="unhealthy", error="away", since=1_800_000_000.0),
            {"status": "unhealthy", "error": "away", "since": "2027-01-15T08:00:00+00:00"},
        ),
        (
            KafkaReport(status="unhealthy", error="away", bootstrap_servers="b:1"),
            {"status": "unhealthy", "error": "away", "bootstrap_servers": "b:1"},
        ),
        (
            KafkaReport(
                status="degraded",
                bootstrap_servers="b:1",
                brokers=("b:1",),
                expected_topics=("a", "b"),
                missing_topics=("b",),
                consumer_group="g",
                lag_by_topic={"a": 7},
            ),
            {
                "status": "degraded",
                "bootstrap_servers": "b:1",
                "brokers": ["b:1"],
                "enabled": True,
                "expected_topics": ["a", "b"],
                "existing_topics": ["a"],
                "missing_topics": ["b"],
                "topics_without_leader": [],
                "consumer_group": "g",
                "lag": 7,
                "lag_by_topic": {"a": 7},
            },
        ),
        (
            SqsReport(
                status="healthy",
                queue="tasks",
                dlq="dead",
                queues=(reading("tasks"), reading("own"), reading("dead", "dlq")),
            ),
            {
                "status": "healthy",
                "queue": "tasks",
                "enabled": True,
                **DEPTHS,
                "other_queues": {"own": DEPTHS},
                "dlq": "dead",
                "dlq_depth": 6,
            },
        ),
        (
            SqsReport(status="degraded", error="away", queue="tasks", dlq="dead", queues=(reading("tasks"),)),
            {
                "status": "degraded",
                "queue": "tasks",
                "enabled": True,
                **DEPTHS,
                "dlq": "dead",
                "dlq_depth": None,
                "error": "away",
            },
        ),
        (
            DynamodbReport(status="unhealthy", error="away", table="jobs"),
            {"status": "unhealthy", "error": "away", "table": "jobs"},
        ),
        (
            DynamodbReport(status="degraded", table="jobs", differences=("no index",)),
            {"status": "degraded", "table": "jobs", "differences": ["no index"]},
        ),
    ],
)
def test_reports_are_served_as_they_always_were(report: Report, body: dict[str, Any]) -> None:
    """Monitoring of others parses these objects: their names and shapes are fixed."""
    assert report_json(report) == body
