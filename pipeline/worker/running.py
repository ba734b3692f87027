"""Runs tasks in children of this process and settles them, for who holds no message of a queue."""

import threading
import time
from collections.abc import Container, Sequence
from typing import NamedTuple, NoReturn

import structlog

from config.settings import Settings
from pipeline.clock import boottime
from pipeline.errorevents import emit_errors
from pipeline.jobs import AlreadyDone as Known
from pipeline.jobs import Closing, JobStore, Ref, SplitFilled
from pipeline.kafka import EventProducer, Record
from pipeline.patience import Patience
from pipeline.registry import Registry
from pipeline.sqs import OutgoingMessage, ReceivedMessage
from pipeline.taskmessage import generation_of, read_header
from pipeline.telemetry import metrics
from pipeline.transport.envelope import open_envelope
from pipeline.transport.lease import Lease
from pipeline.worker.children import HOSTNAME, Children
from pipeline.worker.closing import EMIT_TIMEOUT, Closer
from pipeline.worker.counting import begin, count
from pipeline.worker.dispatch import Dispatch
from pipeline.worker.effects import Effects
from pipeline.worker.givenup import give_up
from pipeline.worker.outcome import AlreadyDone, Cancelled, Succeeded
from pipeline.worker.spans import end_span, start_span
from pipeline.worker.work import Work, keep, traces_of

log = structlog.get_logger(__name__)


#: What the name of a message ends with where its beginnings are counted, beside its failed attempts.
BEGUN = ".begun"


class Counts(NamedTuple):
    """How often a message's task failed, and how often it was begun while that was recorded."""

    attempts: int
    begun: int


class Running:
    """What all runs of stages here share. Threads share it."""

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        store: JobStore,
        producer: EventProducer,
        children: Children,
        patience: Patience,
    ) -> None:
        self.settings = settings
        self.registry = registry
        self.store = store
        self.children = children
        self.patience = patience
        #: the ids of jobs of which nothing is started any more
        self.cancelled_jobs: Container[str] = ()
        self._producer = producer
        dispatch = Dispatch(settings, _no_queue, patience)
        self._closer = Closer(settings, registry, store, producer, dispatch, patience)
        self._effects = Effects(settings, registry, store, producer, dispatch, patience, HOSTNAME)
        self._alone = threading.Lock()
        begin(registry.by_name)

    # ─── Looking ───

    def done(self, refs: Sequence[Ref]) -> Known:
        """Which of these need no run; what a crash left unclosed of them is closed."""
        known = self.patience.one("look up done", lambda: self.store.already_done(refs))
        self._close(known.closings)
        return known

    def counts(self, leases: Sequence[Lease]) -> dict[str, Counts]:
        """By message id, how often each failed and how often it was begun, as far as that is recorded."""
        messages = {lease.message_id: _task_id(lease) for lease in leases}
        keys = [(task_id, name) for name, task_id in messages.items()]
        keys += [(task_id, name + BEGUN) for name, task_id in messages.items()]
        found = self.patience.one("look up attempts", lambda: self.store.attempts(keys))
        return {
            name: Counts(found.get((task_id, name), 0), found.get((task_id, name + BEGUN), 0))
            for name, task_id in messages.items()
        }

    # ─── Running ───

    def run(self, leases: Sequence[Lease], *, mark: bool) -> list[Work]:
        """Run these together; what came of each, not yet settled.

        ``mark``: they may have been begun before, in a process that ended with them. That they are begun is
        recorded before. Suspects run one at a time, so that only the one that ends the process is found to do
        so, and are counted as an attempt before they begin.
        """
        for lease in leases if mark else ():
            self._record_attempt(lease, BEGUN)
        if not any(lease.suspect for lease in leases):
            return self._run(leases)
        works = []
        with self._alone:
            for lease in leases:
                if lease.suspect:
                    self._record_attempt(lease)
                works += self._run([lease])
        return works

    def _record_attempt(self, lease: Lease, what: str = "") -> None:
        message = lease.message
        self.patience.one(
            "count attempt",
            lambda: self.store.add_attempt(_task_id(lease), message.message_id + what, message.receive_count),
        )

    def _run(self, leases: Sequence[Lease]) -> list[Work]:
        begun = []
        for lease in leases:
            metrics.TASKS_STARTED.labels(str(lease.payload["headers"]["task"])).inc()
            span = start_span(lease)
            begun.append((lease, span, self.children.run(lease, span.traceparent)))
        works = []
        for lease, span, wait in begun:
            outcome = wait()
            end_span(span, outcome)
            lease.run_until = boottime()
            works.append(Work(lease=lease, outcome=outcome, span=span))
        return works

    # ─── Settling ───

    def settle(self, works: Sequence[Work]) -> list[Work]:
        """Emit, record, close, as a worker does; those that never can be, with the failure as outcome."""
        refused: list[Work] = []
        emitted = keep(works, self._effects.emit(works), refused)
        recorded, closings = self._effects.record(emitted)
        kept = keep(emitted, recorded, refused)
        self._close(closings, traces_of(kept))
        for work in kept:
            count(work)
            if isinstance(work.outcome, Succeeded):
                log.info("task.done", **work.log_fields(work.lease.attempts + 1))
        return refused

    def skip(self, lease: Lease) -> None:
        """What does not run, because its job is cancelled."""
        work = Work(lease=lease, outcome=Cancelled())
        count(work)
        log.info("task.cancelled", **work.log_fields(lease.attempts))

    def settle_done(self, lease: Lease) -> None:
        """What was done before this run of it."""
        self.settle([Work(lease=lease, outcome=AlreadyDone())])

    def go_on_without(self, works: Sequence[Work]) -> bool:
        """Record given-up parts as failed, told on the errors topic; whether their gather may run without."""
        letters = [give_up(work, HOSTNAME) for work in works]
        events = [(each.error_id, each.error_event(self.settings)) for each in letters]
        emit_errors(self.settings, events, self._emit)
        closings: list[Closing] = []
        failures = [failure for each in letters if (failure := each.failed()) is not None]

        def record(batch: list) -> Sequence[Exception | None]:  # type: ignore[type-arg]
            recorded = self.store.record_failed(batch)
            closings.extend(recorded.closings)
            return recorded.errors

        for error in self.patience.each("record failed", failures, record):
            if error is not None:
                raise error
        self._close(closings)
        return any(isinstance(closing, SplitFilled) for closing in closings)

    def close_split(self, filled: SplitFilled) -> None:
        """Its gather is recorded, so nothing of it is to be begun again."""
        self.patience.one("close", lambda: self.store.close(filled))

    def _close(self, closings: Sequence[Closing], traces: dict[str, str] | None = None) -> None:
        """All but the gathers of splits: here a gather is a step of its event's run, and no message.

        A split is closed once its gather is recorded, and not as on a queue once it is sent: what is closed
        is not begun again.
        """
        others = [closing for closing in closings if not isinstance(closing, SplitFilled)]
        self._closer.close(others, traces or {})

    def _emit(self, records: Sequence[Record]) -> Sequence[Exception | None]:
        return self.patience.each("errors topic", records, lambda r: self._producer.emit(r, EMIT_TIMEOUT))


def lease_of(task: OutgoingMessage, queue: str) -> Lease:
    """A task as if it had been received from ``queue``: the same message, whichever way it takes.

    Its attempts are counted under the task's id and how often it was redriven, so that they go on after a
    crash, and begin anew with a redrive.
    """
    payload = open_envelope(task.body)
    generation = generation_of(task.attributes)
    return Lease(
        message=ReceivedMessage(
            message_id=f"{payload['headers']['id']}.{generation}",
            receipt_handle="",
            body=task.body,
            group_id=task.group_id,
            deduplication_id=task.deduplication_id,
            receive_count=1,
            sent_at=time.time(),
            attributes=task.attributes,
            requested_at=boottime(),
        ),
        queue=queue,
        payload=payload,
        header=read_header(payload["headers"]),
        deadline=float("inf"),
    )


def _task_id(lease: Lease) -> str:
    return str(lease.payload["headers"]["id"])


def _no_queue(name: str) -> NoReturn:
    raise AssertionError(f"nothing is sent to {name} where stages run without SQS")
