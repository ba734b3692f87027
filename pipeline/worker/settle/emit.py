"""Effects: what a task that ended well leaves behind - its event, its result, its parts, its record."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime

from config.settings import Settings
from pipeline import events, identity
from pipeline.errors import PermanentError
from pipeline.events import Event, carried_of, source_of
from pipeline.jobs import (
    Closing,
    Done,
    JobStore,
    PartDone,
    PartRef,
    PartResult,
    StageDone,
    StageRef,
)
from pipeline.kafka import EventProducer, Record
from pipeline.patience import Patience
from pipeline.registry import Registry
from pipeline.taskmessage import TaskHeader, TaskMessage, generation_of
from pipeline.telemetry import tracing
from pipeline.telemetry.tracing import Span
from pipeline.worker.dispatch import Dispatch
from pipeline.worker.outcome import AlreadyDone, Succeeded
from pipeline.worker.parts import PartTasks
from pipeline.worker.work import Work, ref_of, split_ref

#: How long one wait for Kafka's acknowledgements lasts (seconds) before the records are produced again.
EMIT_TIMEOUT = 30.0
#: Parts sent together: the requests of one wait for SQS.
SENT_TOGETHER = 200

Errors = list[Exception | None]


class Effects:
    """Makes the effects of finished stage tasks durable; a plain task has none here."""

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        store: JobStore,
        producer: EventProducer,
        dispatch: Dispatch,
        patience: Patience,
        worker: str,
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._store = store
        self._producer = producer
        self._dispatch = dispatch
        self._patience = patience
        self._worker = worker
        self._parts = PartTasks(registry, store, patience)

    def emit(self, works: Sequence[Work]) -> Errors:
        """Make each task's effect durable outside its job: event, stored result, or parts sent.

        An answer for each: None, or the error for which it never can be. Waits for services that are away.
        """
        errors: Errors = [None] * len(works)
        by_role: dict[str, list[int]] = {}
        for at, work in enumerate(works):
            if work.role is not None and isinstance(work.outcome, Succeeded):
                by_role.setdefault(work.role, []).append(at)
        steps = {
            "run": self._emit_events,
            "gather": self._emit_events,
            "part": self._store_results,
            "split": self._send_parts,
        }
        for role, positions in by_role.items():
            answers = steps[role]([works[at] for at in positions])
            for at, error in zip(positions, answers, strict=True):
                errors[at] = error
        return errors

    def record(self, works: Sequence[Work]) -> tuple[Errors, list[Closing]]:
        """Record each task as done in its job; what that fills must be closed before it is deleted."""
        errors: Errors = [None] * len(works)
        closings: list[Closing] = []
        outcomes: dict[int, Done] = {}
        for at, work in enumerate(works):
            if isinstance(work.outcome, AlreadyDone):
                closings += work.outcome.closings
            elif (done := self._done(work)) is not None:
                outcomes[at] = done

        def call(items: list[Done]) -> Sequence[Exception | None]:
            recorded = self._store.record(items)
            closings.extend(recorded.closings)
            return recorded.errors

        answers = self._patience.each("record", list(outcomes.values()), call)
        for at, error in zip(outcomes, answers, strict=True):
            errors[at] = error
        return errors, closings + self._rechecked(works)

    def _rechecked(self, works: Sequence[Work]) -> list[Closing]:
        """What of a redriven task's job ended before: its redrive took the job as running again."""
        redriven = {
            work.header.job_id
            for work in works
            if work.header and generation_of(work.lease.message.attributes)
        }
        closings: list[Closing] = []
        for job_id in redriven:
            closings += self._patience.one("recheck", lambda job_id=job_id: self._store.recheck(job_id))  # type: ignore[misc]
        return closings

    # ─── Emit ───

    def _emit_events(self, works: Sequence[Work]) -> Errors:
        errors: Errors = [None] * len(works)
        made = {at: event for at, work in enumerate(works) if (event := self._event(work)) is not None}
        spans = [
            tracing.sending(self._settings.topic(event.type), event, works[at].attempt)
            for at, event in made.items()
        ]
        records = [self._record(event, span) for event, span in zip(made.values(), spans, strict=True)]
        answers = self._patience.each("emit", records, lambda batch: self._producer.emit(batch, EMIT_TIMEOUT))
        for at, error in zip(made, answers, strict=True):
            errors[at] = error
        _end(spans, answers)
        return errors

    def _record(self, event: Event, span: Span) -> Record:
        key, value, headers = events.encode(event.continuing(span.traceparent))
        return Record(topic=self._settings.topic(event.type), key=key, value=value, headers=headers)

    def _event(self, work: Work) -> Event | None:
        """The event of a run or gather; None where the path ends."""
        header, outcome = work.header, work.outcome
        if header is None or not isinstance(outcome, Succeeded) or outcome.result is None:
            return None
        topic = self._registry.by_name[header.stage].emits
        if topic is None:
            return None
        return Event(
            id=identity.emitted_event_id(header.task_id),
            source=source_of(self._settings.service_name, header.stage),
            type=topic,
            time=datetime.now(UTC),
            entity_id=header.entity_id,
            data=outcome.result.encode(),
            job_id=header.job_id,
            stage=header.stage,
            submitted_at=header.submitted_at,
            traceparent=work.traceparent,
            carried=carried_of(work.trace),
        )

    def _store_results(self, works: Sequence[Work]) -> Errors:
        results = [_part_result(work) for work in works]
        spans = [tracing.storing(_header(work), work.traceparent, work.attempt) for work in works]
        answers = self._patience.each("store results", results, self._store.put_results)
        _end(spans, answers)
        return answers

    def _send_parts(self, works: Sequence[Work]) -> Errors:
        """Send what sealed splits make, that of small splits together."""
        errors: Errors = [None] * len(works)
        refs = [split_ref(_header(work)) for work in works]
        sealed = self._patience.one("read splits", lambda: self._store.splits(refs))
        waiting: list[tuple[int, TaskMessage]] = []
        for at, work in enumerate(works):
            try:
                for message in self._parts.messages(work, _header(work), sealed.get(refs[at])):
                    waiting.append((at, message))
                    if len(waiting) == SENT_TOGETHER:
                        self._send(waiting, errors)
            except PermanentError as error:
                errors[at] = error
        self._send(waiting, errors)
        return errors

    def _send(self, waiting: list[tuple[int, TaskMessage]], errors: Errors) -> None:
        answers = self._dispatch.send([message for _, message in waiting])
        for (at, _), error in zip(waiting, answers, strict=True):
            errors[at] = errors[at] or error
        waiting.clear()

    # ─── Record ───

    def _done(self, work: Work) -> Done | None:
        """What to record; None for a plain task, and for a split: its parts and its gather count."""
        if work.header is None or not isinstance(work.outcome, Succeeded):
            return None
        ref = ref_of(work.header)
        if isinstance(ref, PartRef):
            return PartDone(ref=ref)
        if isinstance(ref, StageRef):
            stage = self._registry.by_name[ref.stage]
            return StageDone(
                ref=ref,
                task_id=work.task_id,
                ends_path=work.outcome.result is None or not self._registry.consumers(stage.emits),
                run_seconds=work.outcome.seconds,
                finished_at=time.time(),
                worker=self._worker,
            )
        return None


def _end(spans: Sequence[Span], errors: Sequence[Exception | None]) -> None:
    for span, error in zip(spans, errors, strict=True):
        if error is not None:
            span.fail(type(error).__qualname__, str(error))
        span.end()


def _header(work: Work) -> TaskHeader:
    assert work.header is not None
    return work.header


def _part_result(work: Work) -> PartResult:
    ref, outcome = ref_of(_header(work)), work.outcome
    assert isinstance(ref, PartRef)
    assert isinstance(outcome, Succeeded)
    return PartResult(
        ref=ref,
        result=outcome.result if outcome.result is not None else "null",
        run_seconds=outcome.seconds,
        attempts=work.attempt,
    )
