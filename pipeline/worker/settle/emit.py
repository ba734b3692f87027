"""Emit: makes the effect of a finished stage task durable: its event, its stored result, or its parts."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial

from pipeline.author.registry import Registry
from pipeline.errors import PermanentError, ServiceRefusedError
from pipeline.jobs import JobStore, PartRef, PartResult, is_small, ref_of, split_ref
from pipeline.kafka import OutgoingRecord
from pipeline.ledger import Dispatch, Ledger
from pipeline.patience import Patience
from pipeline.payloads import LARGEST_VALUE, Payloads, referenced
from pipeline.registry import Encoder, Written
from pipeline.settings import Settings
from pipeline.telemetry import tracing
from pipeline.telemetry.spans import Span
from pipeline.wire import events, identity
from pipeline.wire.events import Event, carried_of, source_of
from pipeline.wire.plans import JobPlan
from pipeline.wire.taskmessage import TaskHeader, TaskMessage
from pipeline.worker.child.outcome import Succeeded
from pipeline.worker.settle.parts import PartTasks
from pipeline.worker.settle.plans import Plans
from pipeline.worker.settle.work import Work

#: Parts sent together: the requests of one wait for SQS.
SENT_TOGETHER = 200

Errors = list[Exception | None]


class Emitter:
    """Emits what finished stage tasks leave; a plain task leaves nothing here."""

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        plans: Plans,
        store: JobStore,
        ledger: Ledger,
        dispatch: Dispatch,
        patience: Patience,
    ) -> None:
        self._settings = settings
        self._payloads = Payloads(settings)
        self._registry = registry
        self._plans = plans
        self._store = store
        self._ledger = ledger
        self._dispatch = dispatch
        self._patience = patience
        self._parts = PartTasks(registry, store, patience)
        self._encoder = Encoder(settings, patience)

    def emit(self, works: Sequence[Work]) -> Errors:
        """Emit each task's event, store its result, or send its parts. Waits for services during an outage.

        Answer for each None, or the error that trying again would not change.
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

    def _emit_events(self, works: Sequence[Work]) -> Errors:
        errors: Errors = [None] * len(works)
        plans = self._plans.of(_header(work) for work in works)
        made: dict[int, tuple[Event, Written]] = {}
        for at, work in enumerate(works):
            event = self._event(work, plans)
            if event is not None:
                try:
                    stage = self._registry.by_name.get(_header(work).stage)
                    made[at] = event, self._encoder.write(stage, event.data)
                except PermanentError as misfit:
                    errors[at] = misfit
        made = self._kept(made, errors)
        spans = [
            tracing.send_span(self._settings.topic(event.type), event, works[at].attempt)
            for at, (event, _) in made.items()
        ]
        records = [
            self._outgoing(event, written, span)
            for (event, written), span in zip(made.values(), spans, strict=True)
        ]
        answers = self._ledger.emit("emit", records)
        for at, error in zip(made, answers, strict=True):
            errors[at] = error
        _end(spans, answers)
        return errors

    def _kept(
        self, made: Mapping[int, tuple[Event, Written]], errors: Errors
    ) -> dict[int, tuple[Event, Written]]:
        """Return the events, the data of large ones on S3; an event that S3 refuses becomes its error.

        It is on S3 as JSON, whatever its topic carries: a task takes it from there.
        """
        kept: dict[int, tuple[Event, Written]] = {}
        for at, (event, written) in made.items():
            kept[at] = event, written
            if len(written.value) <= LARGEST_VALUE:
                continue
            try:
                named = self._patience.one("payloads", partial(referenced, self._payloads, event))
            except ServiceRefusedError as error:
                errors[at] = error
                del kept[at]
            else:
                if named.reference is not None:
                    kept[at] = named, Written(b"", events.JSON_TYPE)
        return kept

    def _outgoing(self, event: Event, written: Written, span: Span) -> OutgoingRecord:
        key, _, headers = events.encode(event.continuing(span.traceparent), written.content_type)
        topic = self._settings.topic(event.type)
        return OutgoingRecord(topic=topic, key=key, value=written.value, headers=headers)

    def _event(self, work: Work, plans: Mapping[str, JobPlan]) -> Event | None:
        """Return the event of a run or gather; None where it emits nothing."""
        header, outcome = _header(work), work.outcome
        if not isinstance(outcome, Succeeded) or outcome.result is None:
            return None
        # The topic of the job's plan: the bridges read it for that job.
        route = plans[header.job_id].routes.get(header.stage) or self._registry.by_name[header.stage].route
        topic = route.emits
        if topic is None:
            return None
        return Event(
            id=identity.emitted_event_id(work.task_id),
            source=source_of(self._settings.service_name, header.stage),
            type=topic,
            time=datetime.now(UTC),
            entity_id=outcome.entity or header.entity_id,
            data=outcome.result.encode(),
            job_id=header.job_id,
            stage=header.stage,
            submitted_at=header.submitted_at,
            plan_id=plans[header.job_id].id,
            traceparent=work.traceparent,
            carried=carried_of(work.trace),
        )

    def _store_results(self, works: Sequence[Work]) -> Errors:
        """Store results, except those that are stored when their part is recorded."""
        spans = [tracing.store_span(_header(work), work.traceparent, work.attempt) for work in works]
        results = {at: part_result(work) for at, work in enumerate(works) if kept_result(work) is None}
        stored = self._patience.each("store results", [*results.values()], self._store.splits.put_results)
        answers: Errors = [None] * len(works)
        for at, error in zip(results, stored, strict=True):
            answers[at] = error
        _end(spans, answers)
        return answers

    def _send_parts(self, works: Sequence[Work]) -> Errors:
        """Send the tasks of sealed splits; those of small splits together."""
        errors: Errors = [None] * len(works)
        refs = [split_ref(_header(work)) for work in works]
        sealed = self._patience.one("read splits", lambda: self._store.splits.sealed_many(refs))
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


def _end(spans: Sequence[Span], errors: Sequence[Exception | None]) -> None:
    for span, error in zip(spans, errors, strict=True):
        if error is not None:
            span.fail(type(error).__qualname__, str(error))
        span.end()


def _header(work: Work) -> TaskHeader:
    assert work.header is not None
    return work.header


def kept_result(work: Work) -> PartResult | None:
    """Return the result of a part that its split's counter keeps; None for one that is stored by itself."""
    part = _header(work).part
    result = part_result(work) if part is not None and part.keeps else None
    return result if result is not None and is_small(result) else None


def part_result(work: Work) -> PartResult:
    """Return the result of a part that succeeded."""
    ref, outcome = ref_of(_header(work)), work.outcome
    assert isinstance(ref, PartRef)
    assert isinstance(outcome, Succeeded)
    return PartResult(
        ref=ref,
        result=outcome.result if outcome.result is not None else "null",
        run_seconds=outcome.seconds,
        attempts=work.attempt,
    )
