"""The events that the ledger emits: on the errors topic what failed, on the jobs topic how a job ended.

A repetition has the same id.
"""

import json
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Literal

from pipeline.errors import MessageRefusedError
from pipeline.jobs import Job
from pipeline.kafka import OutgoingRecord
from pipeline.settings import ERRORS_TOPIC, JOBS_TOPIC, Settings
from pipeline.wire import events, identity
from pipeline.wire.events import ENTITY_LIMIT, Event
from pipeline.wire.failure import ERROR_LIMIT, ErrorEvent

Emit = Callable[[Sequence[OutgoingRecord]], Sequence[Exception | None]]


def emit_errors(settings: Settings, errors: Sequence[tuple[str, ErrorEvent]], emit: Emit) -> None:
    """Emit error events, given with their ids; raise the error of the first that the topic refuses.

    An event that is larger than the topic takes is emitted again without most of its data.
    """
    answers = emit([error_record(settings, event_id, error) for event_id, error in errors])
    too_large = [
        (event_id, error)
        for (event_id, error), answer in zip(errors, answers, strict=True)
        if isinstance(answer, MessageRefusedError)
    ]
    refused = emit([error_record(settings, event_id, error.brief()) for event_id, error in too_large])
    for answer in (*answers, *refused):
        if answer is not None and (answer in refused or not isinstance(answer, MessageRefusedError)):
            raise answer


def error_record(
    settings: Settings, event_id: str, error: ErrorEvent, traceparent: str | None = None
) -> OutgoingRecord:
    """Return the Kafka record of an error event; give the same ``event_id`` for the same failure.

    It belongs to the trace of the failed task: ``traceparent``, or the one in the original headers.
    """
    traced, carried = events.trace_of(error.headers)
    data = error.encode()
    if len(data) > ERROR_LIMIT:
        data = error.brief().encode()
    event = Event(
        id=event_id,
        source=f"/{settings.service_name}",
        type=f"{error.kind}-failed",
        time=datetime.now(UTC),
        entity_id=(error.entity_id or error.job_id or event_id)[:ENTITY_LIMIT],
        data=data,
        job_id=error.job_id,
        traceparent=traceparent or traced,
        carried=carried,
    )
    key, value, headers = events.encode(event)
    return OutgoingRecord(topic=settings.topic(ERRORS_TOPIC), key=key, value=value, headers=headers)


def job_failed_record(settings: Settings, job: Job, traceparent: str | None = None) -> OutgoingRecord:
    """Return the Kafka record that announces a failed job, with a new id after each redrive.

    ``traceparent``: of a task or event that may have ended the job.
    """
    error = ErrorEvent(
        kind="job",
        service=settings.service_name,
        job_id=job.job_id,
        entity_id=job.entity_id,
        error="JobFailed",
        reason=f"failed in {', '.join(sorted(job.failed))}",
        first_at=job.submitted_at,
        failed_at=job.failed_at or time.time(),
    )
    return error_record(
        settings, identity.closed_event_id(job.job_id, "failed", job.redrives), error, traceparent
    )


def job_ended(settings: Settings, job: Job, end: Literal["complete", "cancelled"]) -> Event:
    """Return the event that announces how a job ended."""
    return Event(
        id=identity.closed_event_id(job.job_id, end, 0),
        source=f"/{settings.service_name}",
        type=f"job-{end}",
        time=datetime.now(UTC),
        entity_id=job.entity_id,
        data=json.dumps({"job_id": job.job_id, "entity_id": job.entity_id, "topic": job.topic}).encode(),
        job_id=job.job_id,
        submitted_at=job.submitted_at,
    )


def job_record(settings: Settings, event: Event) -> OutgoingRecord:
    """Return the Kafka record of such an event."""
    key, value, headers = events.encode(event)
    return OutgoingRecord(topic=settings.topic(JOBS_TOPIC), key=key, value=value, headers=headers)
