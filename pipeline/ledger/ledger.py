"""The ledger: the one place that opens, records, fails, closes and cancels jobs.

The order of effects is the promise, and every caller keeps it. A task that succeeded: emit, ``record``,
``close``, delete its message. A task that failed for good: ``report`` on the errors topic, dead-letter,
``fail``, ``close``, delete. So recorded implies emitted and deleted implies closed, and after a crash
anywhere the redelivery repeats the rest under the same ids.
"""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import TypeVar

import structlog

from pipeline.errors import ServiceError
from pipeline.jobs import (
    Closing,
    Done,
    FailedTask,
    Filled,
    Job,
    JobFailed,
    JobFilled,
    JobState,
    JobStore,
    NewJob,
    Opened,
    Recorded,
    SplitFilled,
)
from pipeline.kafka import EMIT_TIMEOUT, EventProducer, OutgoingRecord
from pipeline.ledger.dispatch import Dispatch
from pipeline.ledger.events import emit_errors, job_ended, job_failed_record, job_record
from pipeline.patience import Patience, raise_first
from pipeline.settings import JOBS_TOPIC, Settings
from pipeline.telemetry import metrics, tracing
from pipeline.wire.failure import ErrorEvent
from pipeline.wire.plans import JobPlan

log = structlog.get_logger(__name__)

T = TypeVar("T")

NO_TRACES: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True)
class EmittedTask:
    """A task whose effects are durable, to be recorded in its job. Empty for a plain task, which has none."""

    #: None where nothing is to be recorded: a split (its parts and gather count), or a task recorded before
    done: Done | None = None
    #: the task's job if the task was redriven: the redrive set the job to running, and what is left of it may
    #: have ended before, so nothing else would close it
    redriven: str | None = None
    #: what an earlier delivery of the task filled and did not close
    left_open: Sequence[Closing] = ()


class Ledger:
    """Writes jobs' records and announces their ends. Waits for services as its ``patience`` says.

    Every method that takes a batch answers for each item, in order: None, or the error that trying again
    would not change. Threads share it.
    """

    def __init__(
        self,
        settings: Settings,
        store: JobStore,
        producer: EventProducer,
        patience: Patience,
        dispatch: Dispatch | None = None,
    ) -> None:
        """``dispatch`` sends the gathers of filled splits.

        Without it a filled split stays open: its gather is run by the process that filled it, which marks it
        closed afterwards (``mark_closed``).
        """
        self._settings = settings
        self._store = store
        self._producer = producer
        self._patience = patience
        self._dispatch = dispatch

    # ─── Kafka ───

    def emit(self, step: str, records: Sequence[OutgoingRecord]) -> list[ServiceError | None]:
        """Emit records and wait for Kafka's acknowledgements. ``step`` names the call in the log."""
        return self._patience.each(step, records, lambda batch: self._producer.emit(batch, EMIT_TIMEOUT))

    def report(self, errors: Sequence[tuple[str, ErrorEvent]]) -> None:
        """Emit error events, given with their ids; raise the error of the first that Kafka refuses."""
        emit_errors(self._settings, errors, lambda records: self.emit("errors topic", records))

    # ─── Jobs ───

    def open(self, jobs: Sequence[NewJob]) -> Opened:
        """Write jobs' records, before a task of theirs can be done or their first event is committed.

        A job that was opened before stays as it is.
        """
        existing: set[str] = set()

        def open_batch(batch: list[NewJob]) -> Sequence[ServiceError | None]:
            opened = self._store.records.open(batch)
            existing.update(opened.existing)
            return opened.errors

        errors = self._patience.each("open jobs", jobs, open_batch)
        return Opened(errors=errors, existing=frozenset(existing))

    def plans(self, job_ids: Collection[str]) -> Mapping[str, JobPlan]:
        """Return the pinned plan of each of the jobs that exist."""
        return {job_id: job.plan for job_id, job in self.jobs(job_ids).items()}

    def jobs(self, job_ids: Collection[str]) -> Mapping[str, Job]:
        """Return those of the jobs that exist, by id."""
        if not job_ids:
            return {}
        return self._patience.one("read jobs", lambda: self._store.records.get_now(job_ids))

    def record(self, tasks: Sequence[EmittedTask]) -> Recorded:
        """Record tasks as done. Close the answer's ``closings`` before any of their messages is deleted."""
        positions = [at for at, task in enumerate(tasks) if task.done]
        done = [task.done for task in tasks if task.done]
        recorded = self._record("record", done, self._store.tasks.record)
        errors: list[ServiceError | None] = [None] * len(tasks)
        for at, error in zip(positions, recorded.errors, strict=True):
            errors[at] = error
        left_open = [closing for task in tasks for closing in task.left_open]
        redriven = {task.redriven for task in tasks if task.redriven}
        return Recorded(errors=errors, closings=[*left_open, *recorded.closings, *self._recheck(redriven)])

    def fail(self, failed: Sequence[FailedTask]) -> Recorded:
        """Record dead letters as failed in their jobs. ``closings`` as for ``record``."""
        recorded = self._record("record failed", failed, self._store.tasks.fail)
        for task, error in zip(failed, recorded.errors, strict=True):
            if error is not None:
                # The dead letter is safe, and no end is awaited of a job whose record expired.
                log.error("job.failure_not_recorded", job_id=task.ref.job_id, error=str(error))
        redriven = {
            task.ref.job_id
            for task, error in zip(failed, recorded.errors, strict=True)
            if task.generation and error is None
        }
        return Recorded(errors=recorded.errors, closings=[*recorded.closings, *self._recheck(redriven)])

    def close(self, closings: Sequence[Closing], traces: Mapping[str, str] = NO_TRACES) -> None:
        """Send the gathers of filled splits, announce ended jobs, then mark both as closed.

        ``traces``: by job id, the ``traceparent`` of a task that may have ended the job.
        """
        splits = [closing for closing in closings if isinstance(closing, SplitFilled) and self._dispatch]
        ended = [closing for closing in closings if isinstance(closing, JobFilled | JobFailed)]
        self._send_gathers(splits)
        self._announce(ended, traces)
        self.mark_closed([*splits, *(closing for closing in ended if isinstance(closing, JobFilled))])

    def mark_closed(self, filled: Sequence[Filled]) -> None:
        """Mark splits and jobs as closed, once their gather or their announcement is acknowledged.

        A replay that fills them again closes nothing.
        """
        raise_first(self._patience.each("close", filled, self._store.close))

    def cancel(self, job_id: str) -> Job | None:
        """Cancel a running job and announce it; return the job as it is then, None for an unknown one.

        Its ``state`` says whether it is cancelled. Raises the ServiceError of DynamoDB or Kafka; calling it
        again goes on from there, with the same event id.
        """
        job = self._patience.one("cancel", lambda: self._store.cancel(job_id))
        if job is not None and job.state is JobState.CANCELLED:
            event = job_ended(self._settings, job, "cancelled")
            raise_first(self.emit("announce jobs", [job_record(self._settings, event)]))
        return job

    def _send_gathers(self, filled: Sequence[SplitFilled]) -> None:
        if not filled or self._dispatch is None:
            return
        splits = [closing.split for closing in filled]
        sealed = self._patience.one("read splits", lambda: self._store.splits.sealed_many(splits))
        raise_first(self._dispatch.send_gathers(sealed.values()))

    def _announce(self, ended: Sequence[JobFilled | JobFailed], traces: Mapping[str, str]) -> None:
        topic = self._settings.topic(JOBS_TOPIC)
        records, spans = [], []
        for closing in ended:
            job = closing.job
            if isinstance(closing, JobFailed):
                records.append(job_failed_record(self._settings, job, traces.get(job.job_id)))
                continue
            event = job_ended(self._settings, job, "complete")
            spans.append(tracing.send_span(topic, event.continuing(traces.get(job.job_id))))
            records.append(job_record(self._settings, event.continuing(spans[-1].traceparent)))
        raise_first(self.emit("announce jobs", records))
        for span in spans:
            span.end()
        for closing in ended:
            state = "failed" if isinstance(closing, JobFailed) else "complete"
            metrics.JOB_SECONDS.labels(state).observe(max(0.0, time.time() - closing.job.submitted_at))

    def _record(self, step: str, items: Sequence[T], call: Callable[[list[T]], Recorded]) -> Recorded:
        closings: list[Closing] = []

        def record(batch: list[T]) -> Sequence[ServiceError | None]:
            recorded = call(batch)
            closings.extend(recorded.closings)
            return recorded.errors

        return Recorded(errors=self._patience.each(step, items, record), closings=closings)

    def _recheck(self, job_ids: set[str]) -> list[Closing]:
        """Return what is to be closed of jobs whose redriven tasks ended (see ``EmittedTask.redriven``)."""
        closings: list[Closing] = []
        for job_id in sorted(job_ids):
            closings += self._patience.one("recheck", partial(self._store.records.recheck, job_id))
        return closings
