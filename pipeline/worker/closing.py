"""Closing: what follows when the last task of a split or of a job is recorded."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime

import structlog

from config.settings import JOBS_TOPIC, Settings
from pipeline import events, identity, taskmessage
from pipeline.errorevents import job_failed_record
from pipeline.events import Event
from pipeline.jobs import Closing, Filled, Job, JobFailed, JobFilled, JobStore, SealedSplit, SplitFilled
from pipeline.kafka import EventProducer, Record
from pipeline.registry import Registry
from pipeline.sqs import OutgoingMessage, SqsQueue
from pipeline.stages import Stage
from pipeline.taskmessage import TaskHeader
from pipeline.transport.inbound import Inbound
from pipeline.worker.patience import Patience

log = structlog.get_logger(__name__)

#: How long one wait for Kafka's acknowledgement lasts (seconds).
EMIT_TIMEOUT = 30.0


class Closer:
    """Sends a full split's gather and announces ended jobs; each has one id however often it is repeated."""

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        inbound: Inbound,
        store: JobStore,
        producer: EventProducer,
        patience: Patience,
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._inbound = inbound
        self._store = store
        self._producer = producer
        self._patience = patience

    def close(self, closings: Sequence[Closing]) -> None:
        """Close each; waits for services that are away."""
        for closing in closings:
            match closing:
                case SplitFilled():
                    self._send_gather(closing)
                    self._mark_closed(closing)
                case JobFilled(job=job):
                    self._emit(job_complete_record(self._settings, job))
                    self._mark_closed(closing)
                case JobFailed(job=job):
                    self._emit(job_failed_record(self._settings, job))

    def _mark_closed(self, filled: Filled) -> None:
        self._patience.one("close", lambda: self._store.close(filled))

    def _send_gather(self, filled: SplitFilled) -> None:
        sealed = self._patience.one("read split", lambda: self._store.split(filled.split))
        if sealed is None:
            log.error("split.not_sealed", split=filled.split.split_id, stage=filled.split.stage)
            return
        header = TaskHeader.model_validate_json(sealed.header)
        stage = self._registry.by_name[header.stage]
        queue = self._inbound.queue(stage.queue or self._settings.task_queue)
        error = send_gather(self._patience, queue, stage, header, sealed, None)
        if error is not None:
            raise error

    def _emit(self, record: Record) -> None:
        (error,) = self._patience.each(
            "announce job", [record], lambda batch: self._producer.emit(batch, EMIT_TIMEOUT)
        )
        if error is not None:
            raise error


def send_gather(
    patience: Patience,
    queue: SqsQueue,
    stage: Stage[object, object],
    header: TaskHeader,
    sealed: SealedSplit,
    traceparent: str | None,
) -> Exception | None:
    """Send the gather's task of a sealed split; None, or the error for which it never can be sent."""
    message = taskmessage.for_gather(stage, header, sealed.data, traceparent)
    (error,) = patience.each("send gather", [OutgoingMessage(**message.to_sqs())], queue.send)
    return error


def job_complete_record(settings: Settings, job: Job) -> Record:
    """The Kafka record that says a job is complete; always the same id for the same job."""
    event = Event(
        id=identity.closed_event_id(job.job_id, "complete", 0),
        source=f"/{settings.service_name}",
        type="job-complete",
        time=datetime.now(UTC),
        entity_id=job.entity_id,
        data=json.dumps({"job_id": job.job_id, "entity_id": job.entity_id, "topic": job.topic}).encode(),
        job_id=job.job_id,
        submitted_at=job.submitted_at,
    )
    key, value, headers = events.encode(event)
    return Record(topic=settings.topic(JOBS_TOPIC), key=key, value=value, headers=headers)
