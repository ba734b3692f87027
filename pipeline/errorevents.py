"""Error events: what is written to the errors topic about a task, an event or a job that was given up on.

They are what a person reads after the fact, so each carries the original data and where it came from.
"""

import time
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from config.settings import ERRORS_TOPIC, Settings
from pipeline import events, identity
from pipeline.events import Event
from pipeline.jobs import Job
from pipeline.kafka import Record

#: Characters of original data that are kept: the errors topic takes 8 MiB, SQS and Kafka messages 1 MiB.
DATA_LIMIT = 2_000_000


class ErrorEvent(BaseModel):
    """The data of an error event. Times are seconds since 1970."""

    model_config = ConfigDict(frozen=True, title="Data of an error event")

    #: "task": a task message went to the SQS dead-letter queue. "event": an event went to the Kafka DLQ
    #: topic. "job": a job ended with failures.
    kind: Literal["task", "event", "job"]
    service: str
    job_id: str | None = None
    stage: str | None = None
    task_id: str | None = None
    #: the part's ordinal of its total, or the role of the task in its stage
    part: str | None = None
    entity_id: str | None = None
    attempts: int = 0
    #: the exception's class
    error: str
    message: str
    traceback: str = ""
    worker: str | None = None
    #: when the message was first sent
    first_at: float | None = None
    failed_at: float
    #: where on Kafka the event was read
    topic: str | None = None
    partition: int | None = None
    offset: int | None = None
    #: the original data or message, as text; cut at DATA_LIMIT
    data: str | None = None
    #: the original headers
    headers: dict[str, Any] = {}


def error_record(settings: Settings, event_id: str, error: ErrorEvent) -> Record:
    """The Kafka record of an error event; the same ``event_id`` for the same failure."""
    entity = error.entity_id or error.job_id or event_id
    event = Event(
        id=event_id,
        source=f"/{settings.service_name}",
        type=f"{error.kind}-failed",
        time=datetime.now(UTC),
        entity_id=entity,
        data=error.model_dump_json().encode(),
        job_id=error.job_id,
    )
    key, value, headers = events.encode(event)
    return Record(topic=settings.topic(ERRORS_TOPIC), key=key, value=value, headers=headers)


def job_failed_record(settings: Settings, job: Job) -> Record:
    """The Kafka record that says a job ended with failures; one id for each time it did."""
    error = ErrorEvent(
        kind="job",
        service=settings.service_name,
        job_id=job.job_id,
        entity_id=job.entity_id,
        error="JobFailed",
        message=f"failed in {', '.join(sorted(job.failed))}",
        first_at=job.submitted_at,
        failed_at=job.failed_at or time.time(),
    )
    return error_record(settings, identity.closed_event_id(job.job_id, "failed", job.redrives), error)
