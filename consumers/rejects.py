"""The end of an event that becomes no task, or fails where stages run here: topics, its job, Sentry."""

import time
from collections.abc import Sequence

import structlog

from config.settings import DLQ_TOPIC, Settings
from consumers.outbox import Entry, Rejection
from pipeline import identity
from pipeline.deadletters import DLQ_HEADERS
from pipeline.errorevents import DATA_LIMIT, ErrorEvent, emit_errors, job_failed_record
from pipeline.errors import MessageRefusedError
from pipeline.events import redrive_of, trace_of
from pipeline.jobs import Closing, Failed, JobFailed, JobFilled, JobStore, StageRef
from pipeline.kafka import EventProducer, Headers, Message, Record
from pipeline.patience import Patience
from pipeline.registry import Registry
from pipeline.telemetry import metrics
from pipeline.telemetry.sentry import Sentry
from pipeline.worker.closing import job_complete_record

log = structlog.get_logger(__name__)

#: Seconds that one wait for Kafka's acknowledgement lasts.
EMIT_TIMEOUT = 30.0

#: Characters of the reason in a header; the errors topic has all of it.
REASON_LIMIT = 500


class Rejects:
    """Sees rejected events to their end. Threads may share it."""

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        store: JobStore,
        producer: EventProducer,
        patience: Patience,
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._store = store
        self._producer = producer
        self._patience = patience
        self._sentry = Sentry(settings)
        self._names = {settings.topic(name): name for name in registry.consumed_topics}

    def bury(self, entries: Sequence[Entry]) -> None:
        """Both topics acknowledged, then their jobs failed; waits for services that are away.

        Doing it again writes the same events once more. Raises the ServiceRefusedError of a service that
        takes none of it: nothing may be committed then.
        """
        rejected = [(entry, entry.rejection) for entry in entries if entry.rejection]
        self._keep(rejected)
        self._tell(rejected)
        for entry, rejection in rejected:
            self._log(entry, rejection)
            self._fail_job(entry, rejection)

    def close(self) -> None:
        """Let go, after the last burial."""
        self._sentry.close()

    def _keep(self, rejected: Sequence[tuple[Entry, Rejection]]) -> None:
        letters = [self._dead_letter(entry.source, rejection) for entry, rejection in rejected]
        for (entry, _), error in zip(rejected, self._emit("dlq topic", letters), strict=True):
            if isinstance(error, MessageRefusedError):
                # Larger than the DLQ topic takes. The errors topic has its beginning and its place, and it
                # stays where it was read for as long as that topic keeps it; waiting would block the rest.
                log.error("event.not_kept", error=str(error), **_place(entry.source))
            elif error is not None:
                raise error

    def _tell(self, rejected: Sequence[tuple[Entry, Rejection]]) -> None:
        errors = [self._error(entry, rejection) for entry, rejection in rejected]
        emit_errors(self._settings, errors, lambda records: self._emit("errors topic", records))

    def _emit(self, what: str, records: Sequence[Record]) -> list[Exception | None]:
        return self._patience.each(what, records, lambda batch: self._producer.emit(batch, EMIT_TIMEOUT))

    def _dead_letter(self, source: Message, rejection: Rejection) -> Record:
        added = (
            source.topic,
            source.partition,
            source.offset,
            source.timestamp_ms,
            rejection.error,
            rejection.message[:REASON_LIMIT],
            rejection.stage or "",
        )
        headers: Headers = tuple(
            (name, str(value).encode()) for name, value in zip(DLQ_HEADERS, added, strict=True)
        )
        return Record(
            topic=self._settings.topic(DLQ_TOPIC),
            key=source.key,
            value=source.value,
            headers=source.headers + headers,
        )

    def _error(self, entry: Entry, rejection: Rejection) -> tuple[str, ErrorEvent]:
        """The error event, and its id: the same whenever this record is rejected for this stage."""
        source, event = entry.source, entry.event
        place = identity.plain_event_id(source.topic, source.partition, source.offset, source.timestamp_ms)
        value = source.value if source.value is None else source.value[:DATA_LIMIT]
        error = ErrorEvent(
            kind="event",
            service=self._settings.service_name,
            job_id=entry.job_id,
            stage=rejection.stage,
            entity_id=event.entity_id if event else _text(source.key),
            attempts=rejection.attempts,
            error=rejection.error,
            message=rejection.message,
            traceback=rejection.traceback,
            generation=_generation(source),
            first_at=source.timestamp_ms / 1000,
            failed_at=time.time(),
            topic=source.topic,
            partition=source.partition,
            offset=source.offset,
            data=_text(value),
            headers={name: _text(value) for name, value in source.headers},
        )
        return identity.error_event_id(place, rejection.stage or "event"), error

    def _fail_job(self, entry: Entry, rejection: Rejection) -> None:
        if entry.job_id is None:
            return
        failed = [
            Failed(
                ref=StageRef(job_id=entry.job_id, stage=stage.name),
                task_id=self._task_id(entry, stage.name),
                error=rejection.error,
                message=rejection.message,
                attempts=rejection.attempts,
                failed_at=time.time(),
                generation=_generation(entry.source),
            )
            for stage in self._registry.consumers(self._names[entry.source.topic])
            if rejection.stage in (None, stage.name)
        ]
        closings: list[Closing] = []

        def record(batch: list[Failed]) -> Sequence[Exception | None]:
            recorded = self._store.record_failed(batch)
            closings.extend(recorded.closings)
            return recorded.errors

        for error in self._patience.each("record failed", failed, record):
            if error is not None:
                # The event is safe on its topics; a job without a record has nobody to tell.
                log.error("job.failure_not_recorded", job_id=entry.job_id, error=str(error))
        self._announce(closings, _traceparent(entry.source))

    def _task_id(self, entry: Entry, stage: str) -> str:
        """The task it would have been; without an event its place stands for it."""
        if entry.event:
            return identity.task_id(entry.event.source, entry.event.id, stage, None)
        first = redrive_of(entry.source.headers) or entry.source
        place = identity.plain_event_id(first.topic, first.partition, first.offset, first.timestamp_ms)
        return identity.task_id(f"kafka:{first.topic}", place, stage, None)

    def _announce(self, closings: Sequence[Closing], traceparent: str | None) -> None:
        for closing in closings:
            match closing:
                case JobFailed(job=job):
                    record = job_failed_record(self._settings, job, traceparent)
                    self._require(self._emit("announce job", [record]))
                case JobFilled(job=job):
                    self._require(self._emit("announce job", [job_complete_record(self._settings, job)]))
                    self._patience.one("close", lambda closing=closing: self._store.close(closing))  # type: ignore[misc]

    @staticmethod
    def _require(errors: Sequence[Exception | None]) -> None:
        for error in errors:
            if error is not None:
                raise error

    def _log(self, entry: Entry, rejection: Rejection) -> None:
        metrics.EVENTS_REJECTED.labels(entry.source.topic).inc()
        fields = {
            "job_id": entry.job_id,
            "stage": rejection.stage,
            "entity_id": _text(entry.source.key),
            **_place(entry.source),
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


def _generation(source: Message) -> int:
    """How often it was redriven before."""
    redrive = redrive_of(source.headers)
    return redrive.generation if redrive else 0


def _traceparent(source: Message) -> str | None:
    """The trace that its producer wrote into it, if any."""
    return trace_of({name: _text(value) for name, value in source.headers})[0]


def _place(source: Message) -> dict[str, str | int]:
    return {"topic": source.topic, "partition": source.partition, "offset": source.offset}


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode(errors="replace")
