"""One piece of work for settlement: a message whose run is over, and what came of it."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pipeline.jobs import PartRef, Ref, SplitRef, StageRef
from pipeline.taskmessage import TRACEPARENT, TaskHeader, trace_headers_of
from pipeline.telemetry.fields import header_fields
from pipeline.telemetry.tracing import Span
from pipeline.transport.lease import Lease
from pipeline.worker.outcome import Failed, Outcome, Succeeded, failed


@dataclass(eq=False, kw_only=True)
class Work:
    """A held message and its outcome, on the way through settlement."""

    lease: Lease
    outcome: Outcome
    #: Celery's request, or what sends task events in its place; None for what is no task
    request: Any = None
    #: the run's; None for a message that never ran
    span: Span | None = None

    #: failed runs before this one
    attempts_before: int = field(init=False)

    def __post_init__(self) -> None:
        self.attempts_before = self.lease.attempts

    @property
    def header(self) -> TaskHeader | None:
        """What a stage's task knows of itself; None for a plain task."""
        return self.lease.header

    @property
    def role(self) -> str | None:
        """What a stage's task does for its stage; None for a plain task."""
        return self.header.role if self.header else None

    @property
    def task_id(self) -> str:
        """The task's id; the message's own for one that is no Celery message."""
        return str(self.lease.payload.get("headers", {}).get("id") or self.lease.message_id)

    @property
    def attempt(self) -> int:
        """1 for its first run."""
        return self.lease.attempts + 1

    @property
    def traceparent(self) -> str | None:
        """The trace it belongs to, and what it made goes on with."""
        return self.span.traceparent if self.span else traceparent_of(self.lease)

    @property
    def trace(self) -> dict[str, str]:
        """The headers of its trace, for the tasks that it makes."""
        return trace_headers_of(self.lease.payload.get("headers", {}), self.traceparent)

    def log_fields(self, attempt: int) -> dict[str, Any]:
        """What a log line about it says."""
        fields = {"task_id": self.task_id, "attempt": attempt, **header_fields(self.header, self.traceparent)}
        if isinstance(self.outcome, Succeeded | Failed):
            fields["duration_ms"] = round(self.outcome.seconds * 1000, 1)
        return fields

    def send_event(self, kind: str, **fields: Any) -> None:
        """Send a Celery task event about it, where events are on."""
        if self.request is not None:
            self.request.send_event(kind, **fields)


def keep(works: Sequence[Work], errors: Sequence[Exception | None], refused: list[Work]) -> list[Work]:
    """Those without an error. The others can never be settled: ``refused`` has them, with that as outcome."""
    kept = []
    for work, error in zip(works, errors, strict=True):
        if error is None:
            kept.append(work)
        else:
            work.outcome = failed(error, permanent=True)
            refused.append(work)
    return kept


def traces_of(works: Sequence[Work]) -> dict[str, str]:
    """By job, the trace that goes on with what the works end."""
    return {work.header.job_id: work.traceparent for work in works if work.header and work.traceparent}


def traceparent_of(lease: Lease) -> str | None:
    """The trace that a message continues."""
    traceparent: str | None = lease.payload.get("headers", {}).get(TRACEPARENT)
    return traceparent


def ref_of(header: TaskHeader) -> Ref:
    """What a task is to its job."""
    if header.role == "part" and header.part is not None:
        return PartRef(
            job_id=header.job_id,
            stage=header.stage,
            split_id=header.part.split_id,
            ordinal=header.part.ordinal,
            total=header.part.total,
        )
    if header.role == "split":
        return replace(split_ref(header), page=header.page)
    return StageRef(job_id=header.job_id, stage=header.stage, gather=header.role == "gather")


def split_ref(header: TaskHeader) -> SplitRef:
    """The split that a task belongs to."""
    return SplitRef(job_id=header.job_id, stage=header.stage, split_id=header.split_id)
