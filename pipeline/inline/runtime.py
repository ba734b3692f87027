"""The runtime of an inline bridge: runs tasks in its children and settles them as a worker does."""

import threading
import time
from collections.abc import Collection, Sequence
from typing import NamedTuple, NoReturn

from pipeline.author.registry import Registry
from pipeline.clock import boottime
from pipeline.errors import InvalidInputError
from pipeline.inline.children import HOSTNAME, Children
from pipeline.jobs import JobStore, Ref, SplitFilled, Verdict
from pipeline.kafka import EventProducer
from pipeline.ledger import Dispatch, Ledger
from pipeline.patience import Patience, raise_first
from pipeline.settings import Settings
from pipeline.sqs import OutgoingMessage, ReceivedMessage
from pipeline.telemetry import metrics
from pipeline.transport.lease import Lease
from pipeline.wire.taskmessage import TaskMessage, generation_of
from pipeline.worker.cancelled import CancelledJobs
from pipeline.worker.settle.completion import Completion, Recorder
from pipeline.worker.settle.emit import Emitter
from pipeline.worker.settle.outgoingletter import letter_of
from pipeline.worker.settle.plans import Plans
from pipeline.worker.settle.work import Work, start_counting
from pipeline.worker.spans import end_span, start_span

#: What a message's name ends with where its starts are counted, beside its failed attempts.
STARTS = ".begun"


class Counts(NamedTuple):
    """How often a message's task failed, and how often it was started while that was recorded."""

    attempts: int
    starts: int
    #: Why it is not run again; None while it may be.
    verdict: Verdict | None = None


class InlineRuntime:
    """Children, ledger and store of an inline bridge. Threads share it."""

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
        self.cancelled_jobs = CancelledJobs(store)
        # Without a dispatch: a gather is a step of its event's run here, no message. A split is closed when
        # its gather is recorded, and not when it is sent: a closed split is not begun again.
        self.ledger = Ledger(settings, store, producer, patience)
        dispatch = Dispatch(settings, registry, _no_queue, patience)
        plans = Plans(registry, self.ledger)
        self.completion = Completion(
            Emitter(settings, registry, plans, store, self.ledger, dispatch, patience),
            Recorder(plans, self.ledger, HOSTNAME),
            self.ledger,
        )
        #: Held by the one suspect that runs.
        self.suspect_lock = threading.Lock()
        start_counting(registry.by_name)

    def look_up_done(self, refs: Sequence[Ref]) -> Collection[Ref]:
        """Return which of these need no run; close what a crash left unclosed of them."""
        known = self.patience.one("look up done", lambda: self.store.resumption.already_done(refs))
        self.ledger.close(known.closings)
        return known.refs

    def look_up_counts(self, leases: Sequence[Lease]) -> dict[str, Counts]:
        """Return by message id how often each failed and was started, as far as that is recorded."""
        keys = [(lease.task_id, lease.message_id + kind) for lease in leases for kind in ("", STARTS)]
        found = self.patience.one("look up attempts", lambda: self.store.attempts.look_up(keys))
        counts = {}
        for lease in leases:
            past = found[lease.task_id, lease.message_id]
            starts = found[lease.task_id, lease.message_id + STARTS].count
            counts[lease.message_id] = Counts(past.count, starts, past.verdict)
        return counts

    def run(self, leases: Sequence[Lease], *, mark: bool) -> list[Work]:
        """Run tasks at the same time and return their outcomes, not yet settled.

        ``mark``: record each start first, because an earlier process may have started them and ended with
        them. A suspect's start counts as a failed attempt until it ends.
        """
        for lease in leases:
            if mark:
                self._record_attempt(lease, STARTS)
            if lease.suspect:
                self._record_attempt(lease)
        started = []
        for lease in leases:
            metrics.TASKS_STARTED.labels(str(lease.headers["task"])).inc()
            span = start_span(lease)
            started.append((lease, span, self.children.run(lease, span.traceparent)))
        works = []
        for lease, span, wait in started:
            outcome = wait()
            end_span(span, outcome)
            lease.run_until = boottime()
            works.append(Work(lease=lease, outcome=outcome, span=span))
        return works

    def give_up_parts(self, works: Sequence[Work]) -> bool:
        """Report parts on the errors topic and record them as failed; whether their gather may run."""
        letters = [letter_of(work, HOSTNAME) for work in works]
        self.ledger.report([(each.error_id, each.error_event(self.settings)) for each in letters])
        recorded = self.ledger.fail([task for each in letters if (task := each.failed_task()) is not None])
        raise_first(recorded.errors)
        self.ledger.close(recorded.closings)
        return any(isinstance(closing, SplitFilled) for closing in recorded.closings)

    def _record_attempt(self, lease: Lease, kind: str = "") -> None:
        message = lease.message
        self.patience.one(
            "count attempt",
            lambda: self.store.attempts.add(lease.task_id, message.message_id + kind, message.receive_count),
        )


def lease_of(message: TaskMessage, queue: str) -> Lease:
    """Return the lease of a task as if it had been received from ``queue``.

    Its attempts are counted under the task's id and how often it was redriven, so that they go on after a
    crash, and begin anew with a redrive.
    """
    task = OutgoingMessage(**message.to_sqs())
    received = ReceivedMessage(
        message_id=f"{task.deduplication_id}.{generation_of(task.attributes)}",
        receipt_handle="",
        body=task.body,
        group_id=task.group_id,
        deduplication_id=task.deduplication_id,
        receive_count=1,
        sent_at=time.time(),
        attributes=task.attributes,
        requested_at=boottime(),
    )
    lease = Lease.of(received, queue, deadline=float("inf"))
    if lease.problem is not None:
        raise InvalidInputError(lease.problem)
    return lease


def _no_queue(name: str) -> NoReturn:
    raise AssertionError(f"nothing is sent to {name} where stages run without SQS")
