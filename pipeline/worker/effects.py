"""Effects: what a task that ended well leaves behind - its event, its result, its parts, its record."""

import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import partial

from config.settings import Settings
from pipeline import events, identity, taskmessage
from pipeline.errors import PermanentError
from pipeline.events import Event
from pipeline.jobs import (
    Closing,
    Done,
    JobStore,
    PartDone,
    PartRef,
    SealedSplit,
    SplitRef,
    StageDone,
    StageRef,
)
from pipeline.kafka import EventProducer, Record
from pipeline.registry import Registry
from pipeline.sqs import OutgoingMessage
from pipeline.transport.inbound import Inbound
from pipeline.worker.closing import send_gather
from pipeline.worker.outcome import AlreadyDone, Succeeded
from pipeline.worker.patience import Patience
from pipeline.worker.work import Work, ref_of

#: How long one wait for Kafka's acknowledgements lasts (seconds) before the records are produced again.
EMIT_TIMEOUT = 30.0

Errors = list[Exception | None]


class Effects:
    """Makes the effects of finished stage tasks durable; a plain task has none here."""

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        inbound: Inbound,
        store: JobStore,
        producer: EventProducer,
        patience: Patience,
        worker: str,
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._inbound = inbound
        self._store = store
        self._producer = producer
        self._patience = patience
        self._worker = worker

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
        return errors, closings

    # ─── Emit ───

    def _emit_events(self, works: Sequence[Work]) -> Errors:
        records = [self._event_record(work) for work in works]
        answers = iter(
            self._patience.each(
                "emit",
                [record for record in records if record is not None],
                lambda batch: self._producer.emit(batch, EMIT_TIMEOUT),
            )
        )
        return [None if record is None else next(answers) for record in records]

    def _event_record(self, work: Work) -> Record | None:
        """The event of a run or gather; None where the path ends."""
        header, outcome = work.header, work.outcome
        if header is None or not isinstance(outcome, Succeeded) or outcome.result is None:
            return None
        topic = self._registry.by_name[header.stage].emits
        if topic is None:
            return None
        event = Event(
            id=identity.emitted_event_id(header.task_id),
            source=f"/{self._settings.service_name}/{header.stage}",
            type=topic,
            time=datetime.now(UTC),
            entity_id=header.entity_id,
            data=outcome.result.encode(),
            job_id=header.job_id,
            stage=header.stage,
            submitted_at=header.submitted_at,
            traceparent=work.traceparent,
        )
        key, value, headers = events.encode(event)
        return Record(topic=self._settings.topic(topic), key=key, value=value, headers=headers)

    def _store_results(self, works: Sequence[Work]) -> Errors:
        results = [(_part(work), _result(work)) for work in works]
        return self._patience.each("store results", results, self._store.put_results)

    def _send_parts(self, works: Sequence[Work]) -> Errors:
        errors: Errors = []
        for work in works:
            try:
                errors.append(self._send_parts_of(work))
            except PermanentError as error:
                errors.append(error)
        return errors

    def _send_parts_of(self, work: Work) -> Exception | None:
        """Send every part of a sealed split, read back page by page; a split of none goes to its gather."""
        header = work.header
        assert header is not None
        split = ref_of(header)
        assert isinstance(split, SplitRef)
        sealed = self._patience.one("read split", lambda: self._store.split(split))
        if sealed is None:
            return PermanentError(f"The split {header.split_id} ended without being sealed.")
        stage = self._registry.by_name[header.stage]
        queue = self._inbound.queue(stage.queue or self._settings.task_queue)
        # SQS may fail one entry of a request and take the next: a group's go in one request each.
        send = partial(queue.send, one_per_group=stage.ordered)
        if sealed.total == 0:
            return send_gather(self._patience, queue, stage, header, sealed, work.traceparent)
        for parts in self._pages(sealed):
            messages = [
                OutgoingMessage(
                    **taskmessage.for_part(
                        stage, header, ordinal, sealed.total, data, work.traceparent
                    ).to_sqs()
                )
                for ordinal, data in parts
            ]
            for error in self._patience.each("send parts", messages, send):
                if error is not None:
                    return error
        return None

    def _pages(self, sealed: SealedSplit) -> Iterator[Sequence[tuple[int, str]]]:
        """The parts as they are stored: whole pages, so that a page out of reach is asked for again."""
        if sealed.inline:
            yield list(enumerate(sealed.inline))
        for page in range(sealed.pages):
            yield self._patience.one("read parts", lambda page=page: self._store.page(sealed, page))  # type: ignore[misc]

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


def _part(work: Work) -> PartRef:
    assert work.header is not None
    ref = ref_of(work.header)
    assert isinstance(ref, PartRef)
    return ref


def _result(work: Work) -> str:
    assert isinstance(work.outcome, Succeeded)
    return work.outcome.result if work.outcome.result is not None else "null"
