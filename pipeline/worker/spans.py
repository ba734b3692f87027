"""A run's span: from when the pool is given the task until its outcome is known, kept in the parent process.

So a run that is killed has one too, and no child needs a connection to send it.
"""

from pipeline.taskmessage import PARTS
from pipeline.telemetry import tracing
from pipeline.telemetry.tracing import Span
from pipeline.transport.lease import Lease
from pipeline.worker.outcome import Failed, Outcome, Succeeded
from pipeline.worker.work import traceparent_of


def start_span(lease: Lease) -> Span:
    """The span of a run that begins."""
    headers = lease.payload["headers"]
    parts = headers.get(PARTS)
    return tracing.running(
        headers["task"],
        headers["id"],
        lease.queue,
        lease.header,
        traceparent_of(lease),
        lease.attempts + 1,
        parts if isinstance(parts, int) else 0,
    )


def end_span(span: Span | None, outcome: Outcome) -> None:
    """The run is over; None for a task that never ran."""
    if span is None:
        return
    if isinstance(outcome, Failed):
        span.fail(outcome.error, outcome.message, outcome.traceback)
    elif not isinstance(outcome, Succeeded):
        span.note("pipeline.outcome", type(outcome).__name__.lower())
    span.end()
