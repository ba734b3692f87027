"""The span of a run, kept in the parent process from the start of the run to its outcome.

So a killed run has one too, and no child needs a connection to send it.
"""

from pipeline.telemetry import tracing
from pipeline.telemetry.spans import Span
from pipeline.transport.lease import Lease
from pipeline.wire.taskmessage import PARTS
from pipeline.worker.child.outcome import Failed, Outcome, Succeeded


def start_span(lease: Lease) -> Span:
    """Start the span of a run."""
    assert lease.envelope is not None
    parts = lease.headers.get(PARTS)
    return tracing.run_span(
        lease.envelope.task_name,
        lease.envelope.task_id,
        lease.queue,
        lease.header,
        lease.traceparent,
        lease.attempts + 1,
        parts if isinstance(parts, int) else 0,
    )


def end_span(span: Span | None, outcome: Outcome) -> None:
    """End the span of a run; None for a task that never ran."""
    if span is None:
        return
    if isinstance(outcome, Failed):
        span.fail(outcome.error, outcome.message, outcome.traceback)
    elif not isinstance(outcome, Succeeded):
        span.note("pipeline.outcome", type(outcome).__name__.lower())
    span.end()
