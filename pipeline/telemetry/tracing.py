"""Traces: one from the event that a producer sent, through bridge, queue and task to the events emitted.

Each hop continues the trace of what it was given (a W3C ``traceparent``) and hands its own span on. Off
unless OpenTelemetry's own variables name somewhere to send spans: then each hop hands on what it was given,
and nothing of OpenTelemetry is imported. Names and attributes: opentelemetry.io/docs/specs/semconv/messaging.
"""

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import structlog

from pipeline import identity
from pipeline.events import Event
from pipeline.taskmessage import TaskHeader

log = structlog.get_logger(__name__)

#: Parts that a gather's span links to: as many links as a span has by default (OTEL_SPAN_LINK_COUNT_LIMIT).
MOST_LINKS = 128

Kind = Literal["consumer", "producer", "internal"]
Attributes = Mapping[str, str | int | float | bool]


class Span(Protocol):
    """One hop. Ended once, from any thread."""

    @property
    def traceparent(self) -> str | None:
        """What the next hop continues."""

    def fail(self, error: str, message: str, traceback: str = "") -> None:
        """Mark it as failed by ``error``, the exception's class."""

    def note(self, name: str, value: str | int) -> None:
        """Set an attribute."""

    def end(self) -> None:
        """It is over."""


@dataclass(frozen=True, slots=True)
class Untraced:
    """In place of a span while traces are off: hands on what came."""

    traceparent: str | None

    def fail(self, error: str, message: str, traceback: str = "") -> None:
        """Nothing."""

    def note(self, name: str, value: str | int) -> None:
        """Nothing."""

    def end(self) -> None:
        """Nothing."""


class Tracer(Protocol):
    """Makes spans; ``pipeline.telemetry.otel`` has the one there is."""

    def span(
        self,
        kind: Kind,
        name: str,
        parent: str | None,
        attributes: Attributes,
        links: Sequence[int] = (),
        span_id: int | None = None,
    ) -> Span:
        """A started span below ``parent``; ``links`` are ids of spans of the same trace."""

    def within(self, traceparent: str) -> AbstractContextManager[None]:
        """Let spans that this block's code makes be below ``traceparent``."""

    def stop(self) -> None:
        """See spans under way out, for a bounded time."""


#: Of this process and those it forks; None while traces are off.
_tracer: Tracer | None = None
_NOWHERE = nullcontext()


def start(service: str, environ: Mapping[str, str]) -> None:
    """Trace in this process, and in those it forks, where the variables say so. Never raises."""
    global _tracer
    if _tracer is not None or not wanted(environ):
        return
    try:
        from pipeline.telemetry.otel import OpenTelemetry

        _tracer = OpenTelemetry(service, environ)
    except ImportError as error:
        log.error("tracing.off", reason=f"OTEL_* is set: pip install 'pipeline[otel]' ({error})")
    except Exception as error:  # noqa: BLE001 - a wrong variable must not cost the work
        log.error("tracing.off", reason=str(error))


def stop() -> None:
    """See the spans of this process out, at most for some seconds."""
    if _tracer is not None:
        _tracer.stop()


def wanted(environ: Mapping[str, str]) -> bool:
    """Whether OpenTelemetry's variables name somewhere to send spans."""
    exporter = environ.get("OTEL_TRACES_EXPORTER", "")
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or exporter == "none":
        return False
    endpoints = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    return bool(exporter or any(environ.get(name) for name in endpoints))


# ─── The hops ───


def sending(topic: str, event: Event, attempt: int | None = None) -> Span:
    """An event on its way to a Kafka topic, below the event's own ``traceparent``."""
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


def bridging(event: Event, job_id: str, group: str) -> Span:
    """A bridge that makes an event into tasks."""
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


def running(
    name: str,
    task_id: str,
    queue: str,
    header: TaskHeader | None,
    parent: str | None,
    attempt: int,
    parts: int,
) -> Span:
    """One run of a task, called ``name``; ``parts`` is how many a gather joins."""
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


def storing(header: TaskHeader, parent: str | None, attempt: int) -> Span:
    """A part's result on its way to its gather, which links to it: the span's id is the task's to tell."""
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
    """Let spans that the code of a task makes be below its run's."""
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
    """The span in which a part's result is stored: a function of its task, so that its gather knows it."""
    return int.from_bytes(hashlib.sha256(part_task_id.encode()).digest()[:8]) or 1
