"""Error events: what is written to the errors topic about a task, an event or a job that was given up on.

They are what a person reads after the fact, so each carries the original data and where it came from.
"""

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, field_validator

from config.settings import ERRORS_TOPIC, Settings
from pipeline import events, identity
from pipeline.errors import MessageRefusedError
from pipeline.events import ENTITY_LIMIT, TRACEPARENT, Event
from pipeline.jobs import Job
from pipeline.kafka import Record
from pipeline.telemetry.redaction import redact, redact_values

#: Characters of original data that are kept: the errors topic takes 8 MiB, SQS and Kafka messages 1 MiB.
DATA_LIMIT = 2_000_000
#: Bytes of the largest error event: a character of data may become six in JSON, and what the topic refuses
#: would block the way out of a failure.
ERROR_LIMIT = 8_000_000
#: Characters kept of the data in the brief version.
BRIEF_LIMIT = 2_000

Emit = Callable[[Sequence[Record]], Sequence[Exception | None]]


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
    #: the Celery node name of the worker; None where none was at work
    worker: str | None = None
    #: how often it was redriven before
    generation: int = 0
    #: when its first message was sent, and when it was given up on
    first_at: float | None = None
    failed_at: float
    #: the queue and message group of a task's message
    queue: str | None = None
    group_id: str | None = None
    #: where on Kafka the event was read
    topic: str | None = None
    partition: int | None = None
    offset: int | None = None
    #: the original data or message, as text; cut at DATA_LIMIT
    data: str | None = None
    #: the original headers
    headers: dict[str, Any] = {}
    #: whether some of the data or the headers had to be left out
    cut: bool = False

    @field_validator("message", "traceback")
    @classmethod
    def _redact(cls, text: str) -> str:
        return redact(text)

    @field_validator("headers")
    @classmethod
    def _redact_headers(cls, headers: dict[str, Any]) -> dict[str, Any]:
        return redact_values(headers)


def emit_errors(settings: Settings, errors: Sequence[tuple[str, ErrorEvent]], emit: Emit) -> None:
    """Emit error events, given with their ids; raise the first that the errors topic does not take.

    One that is larger than the topic takes is emitted again without most of its data.
    """
    answers = emit([error_record(settings, event_id, error) for event_id, error in errors])
    too_large = [
        (event_id, error)
        for (event_id, error), answer in zip(errors, answers, strict=True)
        if isinstance(answer, MessageRefusedError)
    ]
    refused = emit([error_record(settings, event_id, _brief(error)) for event_id, error in too_large])
    for answer in (*answers, *refused):
        if answer is not None and (answer in refused or not isinstance(answer, MessageRefusedError)):
            raise answer


def error_record(
    settings: Settings, event_id: str, error: ErrorEvent, traceparent: str | None = None
) -> Record:
    """The Kafka record of an error event; the same ``event_id`` for the same failure.

    It belongs to the trace of what failed: ``traceparent``, or what the original headers say.
    """
    named, carried = events.trace_of(error.headers)
    data = error.model_dump_json().encode()
    if len(data) > ERROR_LIMIT:
        error = _brief(error)
        data = error.model_dump_json().encode()
    entity = (error.entity_id or error.job_id or event_id)[:ENTITY_LIMIT]
    event = Event(
        id=event_id,
        source=f"/{settings.service_name}",
        type=f"{error.kind}-failed",
        time=datetime.now(UTC),
        entity_id=entity,
        data=data,
        job_id=error.job_id,
        traceparent=traceparent or named,
        carried=carried,
    )
    key, value, headers = events.encode(event)
    return Record(topic=settings.topic(ERRORS_TOPIC), key=key, value=value, headers=headers)


def _brief(error: ErrorEvent) -> ErrorEvent:
    traceparent, carried = events.trace_of(error.headers)
    return error.model_copy(
        update={
            "entity_id": error.entity_id and error.entity_id[:ENTITY_LIMIT],
            "data": error.data and error.data[:BRIEF_LIMIT],
            "headers": carried | ({TRACEPARENT: traceparent} if traceparent else {}),
            "cut": True,
        }
    )


def job_failed_record(settings: Settings, job: Job, traceparent: str | None = None) -> Record:
    """The Kafka record that says a job ended with failures; one id for each time it did.

    ``traceparent``: of a task or event that may have ended it.
    """
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
    return error_record(
        settings, identity.closed_event_id(job.job_id, "failed", job.redrives), error, traceparent
    )
