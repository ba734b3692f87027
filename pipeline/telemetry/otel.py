"""OpenTelemetry: makes spans and sends them from a thread. Imported only while tracing is on.

The provider is made once and shared with forked processes; each process makes its own sending thread, queue
and connection with its first span. A hop only puts its span into a bounded queue: while the collector is away
the queue overflows, and nothing waits.
"""

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.metadata import entry_points

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from pipeline import __version__
from pipeline.telemetry.spans import Attributes, Kind, Span

#: Seconds to wait for unsent spans when the process ends.
FLUSH = 5.0

_KINDS = {"consumer": SpanKind.CONSUMER, "producer": SpanKind.PRODUCER, "internal": SpanKind.INTERNAL}

#: The id of the next span of this thread, if it must not be random.
_given: ContextVar[int | None] = ContextVar("span_id", default=None)


class OpenTelemetry:
    """Makes spans with OpenTelemetry's SDK, as its variables configure it."""

    def __init__(
        self, service: str, environ: Mapping[str, str], exporters: Sequence[SpanExporter] | None = None
    ) -> None:
        """``exporters`` replace those that the variables name. Raises LookupError if one is not installed."""
        types = _exporter_types(environ) if exporters is None else []
        made = PerProcess(lambda: exporters if exporters is not None else [make() for make in types])
        # The SDK's own hook for the end of a process may wait for half a minute.
        self._provider = TracerProvider(
            resource=_resource(service, environ), id_generator=_Ids(), shutdown_on_exit=False
        )
        self._provider.add_span_processor(made)
        self._sending = made
        self._tracer = self._provider.get_tracer("pipeline", __version__)
        if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
            # Also send the spans that a task's own code makes.
            trace.set_tracer_provider(self._provider)

    def span(
        self,
        kind: Kind,
        name: str,
        parent: str | None,
        attributes: Attributes,
        links: Sequence[int] = (),
        span_id: int | None = None,
    ) -> Span:
        """Start a span below ``parent``, or below the current span of this thread."""
        above = _read(parent) if parent else None
        token = _given.set(span_id)
        try:
            span = self._tracer.start_span(
                name,
                context=trace.set_span_in_context(NonRecordingSpan(above)) if above else None,
                kind=_KINDS[kind],
                attributes=attributes,
                links=[Link(_sibling(above, each)) for each in links] if above else (),
            )
        finally:
            _given.reset(token)
        return OtelSpan(span)

    @contextmanager
    def within(self, traceparent: str) -> Iterator[None]:
        """Put the spans that the block's code makes below ``traceparent``."""
        above = _read(traceparent)
        if above is None:
            yield
            return
        token = contexts.attach(trace.set_span_in_context(NonRecordingSpan(above)))
        try:
            yield
        finally:
            contexts.detach(token)

    def stop(self) -> None:
        """Send unsent spans, for at most ``FLUSH`` seconds."""
        self._sending.end(FLUSH)


class OtelSpan:
    """A span, with the context that it passes on."""

    __slots__ = ("_span", "traceparent")

    def __init__(self, span: trace.Span) -> None:
        self._span = span
        at = span.get_span_context()
        self.traceparent: str = f"00-{at.trace_id:032x}-{at.span_id:016x}-{int(at.trace_flags):02x}"

    def fail(self, error: str, message: str, traceback: str = "") -> None:
        """Mark the span as failed, with an exception event as OpenTelemetry records one."""
        described = {"exception.type": error, "exception.message": message, "exception.stacktrace": traceback}
        self._span.add_event("exception", {name: text for name, text in described.items() if text})
        self._span.set_attribute("error.type", error)
        self._span.set_status(Status(StatusCode.ERROR, message))

    def note(self, name: str, value: str | int) -> None:
        """Set an attribute."""
        self._span.set_attribute(name, value)

    def end(self) -> None:
        """End the span."""
        self._span.end()


class PerProcess(SpanProcessor):
    """Sends spans in batches, from a thread that each process starts with its first span.

    A thread does not survive a fork, and two processes must not share a connection.
    """

    def __init__(self, exporters: Callable[[], Sequence[SpanExporter]]) -> None:
        self._exporters = exporters
        self._forget()
        os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._batches: list[BatchSpanProcessor] | None = None

    def on_end(self, span: ReadableSpan) -> None:
        """Queue a span; a full queue drops its oldest."""
        for batch in self._here():
            batch.on_end(span)

    def _here(self) -> list[BatchSpanProcessor]:
        with self._lock:
            if self._batches is None:
                self._batches = [BatchSpanProcessor(exporter) for exporter in self._exporters()]
            return self._batches

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Send the queued spans now."""
        return all(batch.force_flush(timeout_millis) for batch in self._batches or ())

    def end(self, seconds: float) -> None:
        """Send the queued spans, for at most ``seconds`` in all: the SDK's own time-outs add up."""
        if self._batches:
            thread = threading.Thread(target=self._shut, name="tracing-end", daemon=True)
            thread.start()
            thread.join(seconds)

    def _shut(self) -> None:
        for batch in self._batches or ():
            batch.shutdown()  # type: ignore[no-untyped-call]


class _Ids(RandomIdGenerator):
    """Random ids, unless ``_given`` holds one."""

    def generate_span_id(self) -> int:
        return _given.get() or super().generate_span_id()


def _exporter_types(environ: Mapping[str, str]) -> list[Callable[[], SpanExporter]]:
    """Return the exporters that OTEL_TRACES_EXPORTER names; OTLP over HTTP by default."""
    types = []
    for name in environ.get("OTEL_TRACES_EXPORTER", "otlp").split(","):
        registered = name.strip()
        if registered == "otlp":
            protocol = environ.get("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
            registered = "otlp_proto_grpc" if protocol == "grpc" else "otlp_proto_http"
        found = list(entry_points(group="opentelemetry_traces_exporter", name=registered))
        if not found:
            raise LookupError(
                f"OTEL_TRACES_EXPORTER: {registered!r} is not installed; "
                "pip install 'celery-stages[otel]' has otlp over HTTP, and console"
            )
        types.append(found[0].load())
    return types


def _resource(service: str, environ: Mapping[str, str]) -> Resource:
    named = "OTEL_SERVICE_NAME" in environ or "service.name=" in environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    return Resource.create({} if named else {SERVICE_NAME: service})


def _read(traceparent: str) -> SpanContext | None:
    """Return the context of a traceparent; None if it names no span."""
    try:
        _, trace_id, span_id, flags = traceparent.split("-")
        context = SpanContext(int(trace_id, 16), int(span_id, 16), True, TraceFlags(int(flags, 16)))
    except ValueError:
        return None
    return context if context.is_valid else None


def _sibling(of: SpanContext, span_id: int) -> SpanContext:
    return SpanContext(of.trace_id, span_id, True, of.trace_flags)
