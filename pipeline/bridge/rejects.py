"""The way of rejected events: to the DLQ topic and the errors topic, and as a failure into their jobs."""

import time
from collections.abc import Container, Mapping, Sequence
from dataclasses import replace

import structlog

from pipeline.bridge.knownplans import KnownPlans
from pipeline.bridge.translator import Rejection
from pipeline.errors import MessageRefusedError
from pipeline.jobs import FailedTask, StageRef
from pipeline.kafka import OutgoingRecord, ReceivedRecord
from pipeline.ledger import Ledger
from pipeline.settings import DLQ_TOPIC, Settings
from pipeline.telemetry import metrics
from pipeline.telemetry.sentry import Sentry
from pipeline.wire import identity, redaction
from pipeline.wire.deadletter import encode_headers
from pipeline.wire.events import ENTITY_LIMIT, Coordinates, Redrive, redrive_of, trace_of
from pipeline.wire.failure import DATA_LIMIT, ErrorEvent, Failure
from pipeline.wire.plans import JobPlan
from pipeline.worker.settle.outgoingletter import failed_task

log = structlog.get_logger(__name__)


class Rejects:
    """Buries rejected events. Threads may share it."""

    def __init__(
        self, settings: Settings, plans: KnownPlans, ledger: Ledger, others: Container[str] = ()
    ) -> None:
        """``others``: the topics of others that consumers read."""
        self._settings = settings
        self._others = others
        self._plans = plans
        self._ledger = ledger
        self._sentry = Sentry(settings)

    def bury(self, rejections: Sequence[Rejection]) -> None:
        """Write to both topics, then fail the jobs; waits for services that are away.

        Doing it again writes the same events once more. Raises the ServiceRefusedError of a service that
        takes none of it: nothing may be committed then.
        """
        self._keep(rejections)
        self._ledger.report([self._error(rejection) for rejection in rejections])
        for rejection in rejections:
            self._log(rejection)
        pinned = self._ledger.plans({rejection.job_id for rejection in rejections if rejection.job_id})
        failed = [task for rejection in rejections for task in self._failed_tasks(rejection, pinned)]
        self._ledger.close(self._ledger.fail(failed).closings, _traces(rejections))

    def close(self) -> None:
        """Close Sentry's client, after the last burial."""
        self._sentry.close()

    def _keep(self, rejections: Sequence[Rejection]) -> None:
        letters = [self._dead_letter(rejection) for rejection in rejections]
        for rejection, error in zip(rejections, self._ledger.emit("dlq topic", letters), strict=True):
            if isinstance(error, MessageRefusedError):
                # Larger than the DLQ topic takes. The errors topic has its beginning and its place, and it
                # stays where it was read for as long as that topic keeps it; waiting would block the rest.
                log.error("event.not_kept", error=str(error), **_place(rejection.record))
            elif error is not None:
                raise error

    def _dead_letter(self, rejection: Rejection) -> OutgoingRecord:
        source = rejection.record
        at = Coordinates(
            topic=source.topic,
            partition=source.partition,
            offset=source.offset,
            timestamp_ms=source.timestamp_ms,
        )
        return OutgoingRecord(
            topic=self._settings.topic(DLQ_TOPIC),
            key=source.key,
            value=source.value,
            headers=encode_headers(
                source.headers,
                _failure(rejection),
                at,
                _redrive_of(source),
                consumed=source.topic in self._others,
            ),
        )

    def _error(self, rejection: Rejection) -> tuple[str, ErrorEvent]:
        """Return the error event and its id: the same whenever this record is rejected for this stage."""
        source = rejection.record
        place = identity.plain_event_id(source.topic, source.partition, source.offset, source.timestamp_ms)
        value = source.value if source.value is None else source.value[:DATA_LIMIT]
        error = ErrorEvent(
            **_failure(rejection).facts(),
            kind="event",
            service=self._settings.service_name,
            data=_text(value),
            headers={name: _text(value) for name, value in source.headers},
            cut=any(len(value or b"") > redaction.LIMIT for _, value in source.headers),
        )
        return identity.error_event_id(place, rejection.stage or "event"), error

    def _failed_tasks(self, rejection: Rejection, pinned: Mapping[str, JobPlan]) -> list[FailedTask]:
        """Return the tasks that the event would have become, as failed; none without a job."""
        plan = pinned.get(rejection.job_id or "")
        if rejection.job_id is None or plan is None:
            return []
        failure = _failure(rejection)
        return [
            failed_task(
                StageRef(job_id=rejection.job_id, stage=route.name),
                replace(failure, task_id=_task_id(rejection, route.name)),
            )
            for route in self._plans.routes(plan, self._logical(rejection))
            if rejection.concerns(route)
        ]

    def _logical(self, rejection: Rejection) -> str:
        """Return the logical topic of an event: of one that a consumer made, its type."""
        if rejection.consumer is not None and rejection.event is not None:
            return rejection.event.type
        topic = rejection.record.topic
        return next(name for name in self._plans.topics if self._settings.topic(name) == topic)

    def _log(self, rejection: Rejection) -> None:
        metrics.EVENTS_REJECTED.labels(rejection.record.topic).inc()
        fields = {
            "job_id": rejection.job_id,
            "stage": rejection.stage,
            "consumer": rejection.consumer,
            "entity_id": _entity(rejection.record),
            **_place(rejection.record),
        }
        log.error("event.rejected", **fields, error=rejection.error, reason=rejection.message)
        known = {name: value for name, value in fields.items() if value is not None}
        self._sentry.report(
            error=rejection.error,
            message=rejection.message,
            traceback=rejection.traceback,
            stage=rejection.stage,
            tags={**known, "attempts": rejection.attempts},
        )


def _task_id(rejection: Rejection, stage: str) -> str:
    """Return the id of the task that the event would have been; without an event its place stands for it."""
    if rejection.event:
        return identity.task_id(rejection.event.source, rejection.event.id, stage, None)
    first = _redrive_of(rejection.record) or rejection.record
    place = identity.plain_event_id(first.topic, first.partition, first.offset, first.timestamp_ms)
    return identity.task_id(f"kafka:{first.topic}", place, stage, None)


def _failure(rejection: Rejection) -> Failure:
    source, event, redrive = rejection.record, rejection.event, _redrive_of(rejection.record)
    return Failure(
        job_id=rejection.job_id,
        stage=rejection.stage,
        entity_id=event.entity_id if event else _entity(source),
        attempts=rejection.attempts,
        error=rejection.error,
        reason=rejection.message,
        traceback=rejection.traceback,
        generation=redrive.generation if redrive else 0,
        first_at=source.timestamp_ms / 1000,
        failed_at=time.time(),
        topic=source.topic,
        partition=source.partition,
        offset=source.offset,
    )


def _redrive_of(record: ReceivedRecord) -> Redrive | None:
    return redrive_of(record.headers, record.topic, record.key, record.value)


def _traces(rejections: Sequence[Rejection]) -> dict[str, str]:
    """Return by job id the trace that the producer of its event wrote into the record."""
    found = {}
    for rejection in rejections:
        traceparent, _ = trace_of({name: _text(value) for name, value in rejection.record.headers})
        if rejection.job_id and traceparent:
            found[rejection.job_id] = traceparent
    return found


def _place(source: ReceivedRecord) -> dict[str, str | int]:
    return {"topic": source.topic, "partition": source.partition, "offset": source.offset}


def _entity(record: ReceivedRecord) -> str | None:
    """Return the beginning of the key, which may be too long for an entity."""
    return None if record.key is None else record.key.decode(errors="replace")[:ENTITY_LIMIT]


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode(errors="replace")
