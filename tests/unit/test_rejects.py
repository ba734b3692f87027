"""Sentry hears of events that become no task or fail where stages run here, as of a worker's dead letters."""

from collections.abc import Sequence
from typing import Any

import pytest

from config.settings import Settings
from consumers.offsets import Ticket, _Assignment
from consumers.outbox import REJECTED, Entry, Rejection, SharedTicket
from consumers.rejects import Rejects
from pipeline.jobs import JobStore
from pipeline.jobs.table import Table
from pipeline.kafka import Message, Partition, Record
from pipeline.patience import Patience
from pipeline.registry import Registry
from pipeline.stages import stage
from pipeline.telemetry.sentry import Sentry
from tests.fakes.dynamodb import FakeDynamoDB

SETTINGS = Settings(
    service_name="post",
    kafka_bootstrap_servers="unused",
    kafka_consumer_group="post",
    sqs_task_queue_url="https://sqs/1/tasks.fifo",
    sqs_dlq_url="https://sqs/1/dlq.fifo",
)


class FakeProducer:
    """Takes everything."""

    def emit(self, records: Sequence[Record], timeout: float) -> list[None]:
        return [None] * len(records)


@pytest.fixture
def rejects() -> Rejects:
    registry = Registry()

    @stage(consumes="letters", emits="words", registry=registry)
    def read(letter: str) -> str:
        return letter

    producer: Any = FakeProducer()
    wire: Any = FakeDynamoDB()
    store = JobStore(SETTINGS, table=Table("jobs", lambda: wire))
    return Rejects(SETTINGS, registry, store, producer, Patience())


@pytest.fixture
def reports(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What Sentry is told."""
    told: list[dict[str, Any]] = []
    monkeypatch.setattr(Sentry, "report", lambda _, **report: told.append(report))
    return told


def entry(rejection: Rejection, job_id: str | None) -> Entry:
    ticket = Ticket(Partition("letters", 2), 7, _Assignment(), 0)
    return Entry(
        source=Message(
            topic="letters", partition=2, offset=7, timestamp_ms=1, key=b"ada", value=b"{}", headers=()
        ),
        event=None,
        ticket=SharedTicket(ticket, 1),
        job_id=job_id,
        job=None,
        destination=REJECTED,
        rejection=rejection,
    )


def test_a_stage_that_failed_here_is_told(rejects: Rejects, reports: list[dict[str, Any]]) -> None:
    """Once, after its attempts: class, message, traceback; job, stage, entity, attempts and place as tags."""
    failed = Rejection(
        error="builtins.ValueError", message="torn", stage="read", attempts=4, traceback="Traceback …"
    )
    rejects.bury([entry(failed, "j1")])
    (report,) = reports
    assert report == {
        "error": "builtins.ValueError",
        "message": "torn",
        "traceback": "Traceback …",
        "stage": "read",
        "tags": {
            "job_id": "j1",
            "stage": "read",
            "entity_id": "ada",
            "topic": "letters",
            "partition": 2,
            "offset": 7,
            "attempts": 4,
        },
    }


def test_what_is_no_event_is_told(rejects: Rejects, reports: list[dict[str, Any]]) -> None:
    """It has no job and no stage: no tag says otherwise."""
    rejects.bury([entry(Rejection(error="InvalidEventError", message="not JSON"), None)])
    (report,) = reports
    assert (report["error"], report["stage"]) == ("InvalidEventError", None)
    assert {"job_id", "stage"}.isdisjoint(report["tags"])
