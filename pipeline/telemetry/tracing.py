"""Traces: each follows an event from its producer through bridge, queue and task to the emitted events.

Each hop continues the trace of its input (a W3C ``traceparent``) and passes its own span on. Tracing is off
unless OpenTelemetry's variables name an exporter: then each hop passes the ``traceparent`` of its input on,
and OpenTelemetry is not imported. Names and attributes: opentelemetry.io/docs/specs/semconv/messaging.
"""

import hashlib
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import structlog

from pipeline.telemetry.spans import Span, Tracer, Untraced
from pipeline.wire import identity
from pipeline.wire.events import Event
from pipeline.wire.taskmessage import TaskHeader

log = structlog.get_logger(__name__)

#: The most parts that a gather's span links to: the default limit of a span (OTEL_SPAN_LINK_COUNT_LIMIT).
MOST_LINKS = 128

#: Of this process and those it forks; None while tracing is off.
_tracer: Tracer | None = None
_NOWHERE = nullcontext()


def start(service: str, environ: Mapping[str, str]) -> None:
    """Trace in this process, and in those it forks, if ``environ`` configures it. Never raises."""
    global _tracer
    if _tracer is not None or not is_configured(environ):
        return
    try:
        from pipeline.telemetry.otel import OpenTelemetry

        _tracer = OpenTelemetry(service, environ)
    except ImportError as error:
        log.error("tracing.off", reason=f"OTEL_* is set: pip install 'celery-stages[otel]' ({error})")
    except Exception as error:  # noqa: BLE001 - a wrong variable must not stop the process
        log.error("tracing.off", reason=str(error))


def stop() -> None:
    """Send the unsent spans of this process, for some seconds at most."""
    if _tracer is not None:
        _tracer.stop()


def is_configured(environ: Mapping[str, str]) -> bool:
    """Whether OpenTelemetry's variables name an exporter or an endpoint."""
    exporter = environ.get("OTEL_TRACES_EXPORTER", "")
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or exporter == "none":
        return False
    endpoints = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    return bool(exporter or any(environ.get(name) for name in endpoints))


# ─── The hops ───


def send_span(topic: str, event: Event, attempt: int | None = None) -> Span:
    """Start the span of sending an event to a Kafka topic, below the event's ``traceparent``."""
    if _tracer is None:
        return Untraced(event.traceparent)
    attributes = {
        "messaging.system": "kafka",
        "messaging.operation.type": "send",
        "messaging.operation.name": "send",
        "messaging.destination.name": topic,
        "messaging.message.id": event.id,
        "messaging.kafka.message.key": event.entity_id,
        **_ours(event.job_id, event.stage, event.entity_id, attempt),
    }
    return _tracer.span("producer", f"send {topic}", event.traceparent, attributes)


def bridge_span(event: Event, job_id: str, group: str) -> Span:
    """Start the span of a bridge that turns an event into tasks."""
    if _tracer is None:
        return Untraced(event.traceparent)
    at = event.coordinates
    attributes: dict[str, Any] = {
        "messaging.system": "kafka",
        "messaging.operation.type": "process",
        "messaging.operation.name": "process",
        "messaging.consumer.group.name": group,
        "messaging.message.id": event.id,
        "messaging.kafka.message.key": event.entity_id,
        **_ours(job_id, event.stage, event.entity_id),
    }
    if at is not None:
        attributes |= {
            "messaging.destination.name": at.topic,
            "messaging.destination.partition.id": str(at.partition),
            "messaging.kafka.offset": at.offset,
        }
    return _tracer.span(
        "consumer", f"process {at.topic if at else event.type}", event.traceparent, attributes
    )


def run_span(
    name: str,
    task_id: str,
    queue: str,
    header: TaskHeader | None,
    parent: str | None,
    attempt: int,
    parts: int,
) -> Span:
    """Start the span of one run of a task; ``parts`` is the number of parts that a gather joins."""
    if _tracer is None:
        return Untraced(parent)
    attributes: dict[str, Any] = {
        "messaging.system": "aws_sqs",
        "messaging.operation.type": "process",
        "messaging.operation.name": "run",
        "messaging.destination.name": queue,
        "messaging.message.id": task_id,
        "pipeline.attempt": attempt,
    }
    links: list[int] = []
    if header is not None:
        attributes |= _task(header, attempt)
        if header.role == "gather":
            links = [_result_id(_part_id(header, ordinal)) for ordinal in range(min(parts, MOST_LINKS))]
    return _tracer.span("consumer", f"run {name}", parent, attributes, links)


def store_span(header: TaskHeader, parent: str | None, attempt: int) -> Span:
    """Start the span of storing a part's result. Its id follows from the task: the gather links to it."""
    if _tracer is None:
        return Untraced(parent)
    return _tracer.span(
        "internal",
        f"store {header.stage}",
        parent,
        _task(header, attempt),
        span_id=_result_id(header.task_id),
    )


def within(traceparent: str | None) -> AbstractContextManager[None]:
    """Put the spans that a task's code makes below the span of its run."""
    return _NOWHERE if _tracer is None or traceparent is None else _tracer.within(traceparent)


def _task(header: TaskHeader, attempt: int) -> dict[str, str | int]:
    attributes = _ours(header.job_id, header.stage, header.entity_id, attempt)
    if header.part is not None:
        attributes["pipeline.part"] = f"{header.part.ordinal}/{header.part.total}"
    return attributes


def _ours(
    job_id: str | None, stage: str | None, entity_id: str, attempt: int | None = None
) -> dict[str, str | int]:
    known = {
        "pipeline.job_id": job_id,
        "pipeline.stage": stage,
        "pipeline.entity_id": entity_id,
        "pipeline.attempt": attempt,
    }
    return {name: value for name, value in known.items() if value is not None}


def _part_id(gather: TaskHeader, ordinal: int) -> str:
    return identity.task_id(gather.event_source, gather.event_id, gather.stage, ordinal)


def _result_id(part_task_id: str) -> int:
    """Return the id of the span that stores a part's result: a function of its task."""
    return int.from_bytes(hashlib.sha256(part_task_id.encode()).digest()[:8]) or 1
