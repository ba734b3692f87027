"""Job events: what the jobs topic is told when a job ended for good, each with one id however often."""

import json
from datetime import UTC, datetime
from typing import Literal

from config.settings import JOBS_TOPIC, Settings
from pipeline import events, identity
from pipeline.events import Event
from pipeline.jobs import Job
from pipeline.kafka import Record


def job_ended(settings: Settings, job: Job, end: Literal["complete", "cancelled"]) -> Event:
    """The event that says how a job ended."""
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


def job_record(settings: Settings, event: Event) -> Record:
    """The Kafka record of such an event."""
    key, value, headers = events.encode(event)
    return Record(topic=settings.topic(JOBS_TOPIC), key=key, value=value, headers=headers)
