"""Work: a message whose run has ended, with its outcome, and the metrics of what settlement did with it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.telemetry import metrics
from pipeline.telemetry.fields import task_fields
from pipeline.telemetry.spans import Span
from pipeline.transport.lease import Lease
from pipeline.wire.taskmessage import TaskHeader, trace_headers_of
from pipeline.worker.child.outcome import (
    AlreadyDone,
    Cancelled,
    Discarded,
    Failed,
    Outcome,
    Returned,
    Succeeded,
    failed,
)
from pipeline.worker.settle.taskevents import EventSender

#: The label of each outcome that is not a failure.
_OUTCOMES = {
    Succeeded: "done",
    AlreadyDone: "already_done",
    Returned: "returned",
    Discarded: "discarded",
    Cancelled: "cancelled",
}


@dataclass(eq=False, kw_only=True)
class Work:
    """A held message and its outcome, on the way through settlement."""

    lease: Lease
    outcome: Outcome
    #: Celery's request, or an ``EventSender`` in its place; None for a message that is no task
    request: Any = None
    #: the span of the run; None for a message that never ran
    span: Span | None = None

    #: failed runs before this one
    attempts_before: int = field(init=False)

    def __post_init__(self) -> None:
        self.attempts_before = self.lease.attempts

    @property
    def header(self) -> TaskHeader | None:
        """The pipeline header of a stage's task; None for a plain task."""
        return self.lease.header

    @property
    def role(self) -> str | None:
        """The role of a stage's task: run, split, part or gather; None for a plain task."""
        return self.header.role if self.header else None

    @property
    def task_id(self) -> str:
        """The task's id; the message's own id if it is no Celery message."""
        return self.lease.task_id

    @property
    def attempt(self) -> int:
        """The number of this attempt, from 1."""
        return self.lease.attempts + 1

    @property
    def traceparent(self) -> str | None:
        """The ``traceparent`` of the run, which the effects of the task continue."""
        return self.span.traceparent if self.span else self.lease.traceparent

    @property
    def trace(self) -> dict[str, str]:
        """The trace headers for the tasks that it sends."""
        return trace_headers_of(self.lease.headers, self.traceparent)

    def log_fields(self, attempt: int) -> dict[str, Any]:
        """Return the fields of its log lines."""
        fields = {
            "task_id": self.task_id,
            "attempt": attempt,
            **task_fields(self.lease.headers, self.header, self.traceparent),
        }
        if isinstance(self.outcome, Succeeded | Failed):
            fields["duration_ms"] = round(self.outcome.seconds * 1000, 1)
        return fields

    def send_event(self, kind: str, **fields: Any) -> None:
        """Send a Celery task event about it, where events are on."""
        if self.request is not None:
            self.request.send_event(kind, **fields)


def keep(works: Sequence[Work], errors: Sequence[Exception | None], refused: list[Work]) -> list[Work]:
    """Return the works without an error that are not behind one with an error in their lane.

    Those with an error can never be settled: add them to ``refused``, with the error as their outcome.
    """
    kept = []
    stopped = set()
    for work, error in zip(works, errors, strict=True):
        if error is not None:
            work.outcome = failed(error, permanent=True)
            refused.append(work)
            stopped.add(work.lease.lane)
        elif work.lease.lane not in stopped:
            kept.append(work)
    return kept


def traces_of(works: Sequence[Work]) -> dict[str, str]:
    """Return by job id the ``traceparent`` of a work that may have ended the job."""
    return {work.header.job_id: work.traceparent for work in works if work.header and work.traceparent}


# ─── Metrics ───


def start_counting(stages: Iterable[str]) -> None:
    """Set the counters of failures to 0, so that the first failure of a stage is an increase."""
    for stage in stages:
        metrics.TASKS_FAILED.labels(stage)
        metrics.TASKS_SETTLED.labels(stage, "dead")


def count(work: Work) -> None:
    """Count a settled task that did not fail."""
    stage = _stage(work)
    metrics.TASKS_SETTLED.labels(stage, _OUTCOMES[type(work.outcome)]).inc()
    if isinstance(work.outcome, Succeeded):
        metrics.RUN_SECONDS.labels(stage).observe(work.outcome.seconds)


def count_failures(failed: Sequence[Work], given_up: Sequence[Work]) -> None:
    """Count failed tasks; ``given_up`` are those of them that are not retried."""
    dead = {id(work) for work in given_up}
    for work in failed:
        stage = _stage(work)
        metrics.TASKS_FAILED.labels(stage).inc()
        metrics.TASKS_SETTLED.labels(stage, "dead" if id(work) in dead else "retried").inc()
        if isinstance(work.outcome, Failed) and work.outcome.seconds:
            metrics.RUN_SECONDS.labels(stage).observe(work.outcome.seconds)


def _stage(work: Work) -> str:
    """Return the stage as a label; for a plain task its name, if the code defines it."""
    if isinstance(work.request, EventSender) and not work.request.known:
        return "unknown"
    if work.header is not None:
        return work.header.stage
    return str(work.request.name) if work.request is not None else "unknown"
