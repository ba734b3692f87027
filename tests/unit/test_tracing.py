"""One trace through all hops; without tracing, or without OpenTelemetry, each hop passes on what it got."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from celery.signals import before_task_publish
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

import pipeline.celery  # noqa: F401 - its receivers of signals
from pipeline.kafka.producer import OpenHeaders
from pipeline.telemetry import otel, tracing
from pipeline.transport.lease import Lease
from pipeline.wire.events import Coordinates, Event
from pipeline.wire.taskmessage import TRACEPARENT, PartOf, TaskHeader, celery_name
from pipeline.worker.child.outcome import (
    Outcome,
    Returned,
    Succeeded,
    failed,
)
from pipeline.worker.child.runoptions import RunOptions, running_options
from pipeline.worker.spans import end_span, start_span
from tests.builders import lease

PRODUCER = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
UNSAMPLED = PRODUCER[:-2] + "00"
EVENT = Event(
    id="e-1",
    source="/orders",
    type="order-placed",
    time=datetime(2026, 1, 2, tzinfo=UTC),
    entity_id="customer-7",
    data=b"{}",
    job_id="j-1",
    traceparent=PRODUCER,
    coordinates=Coordinates(topic="shop-order-placed", partition=3, offset=14, timestamp_ms=1),
)
HEADER = TaskHeader(
    job_id="j-1",
    stage="price",
    role="run",
    event_source="/orders",
    event_id="e-1",
    entity_id="customer-7",
    topic="shop-order-placed",
    partition=3,
    offset=14,
    submitted_at=1.0,
)
DONE = Succeeded(result="1", summary="", seconds=0)


class Spans:
    """The spans that this process sent."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.tracer = otel.OpenTelemetry("shop", {}, [self.exporter])

    def seen(self) -> list[ReadableSpan]:
        self.tracer._provider.force_flush()
        return list(self.exporter.get_finished_spans())


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[Spans]:
    """Traces are on, into memory."""
    monkeypatch.setattr(trace, "set_tracer_provider", lambda _: None)
    made = Spans()
    monkeypatch.setattr(tracing, "_tracer", made.tracer)
    yield made
    made.tracer.stop()


def held(header: TaskHeader, **headers: object) -> Lease:
    """A message of a task, as the worker holds it."""
    ours = {"pipeline": header.model_dump(mode="json"), "task": celery_name(header.stage, header.role)}
    whole = {**ours, "id": header.task_id, TRACEPARENT: PRODUCER, **headers}
    return lease(headers=whole, queue="tasks")


def ran(header: TaskHeader, outcome: Outcome, **headers: object) -> None:
    end_span(start_span(held(header, **headers)), outcome)


def span_id(span: ReadableSpan) -> int:
    assert span.context is not None
    number: int = span.context.span_id
    return number


def test_each_hop_hands_on_its_own_span(spans: Spans) -> None:
    """Send, bridge, run and emit are a chain below the producer's span, in the producer's trace."""
    sent = tracing.send_span("shop-order-placed", EVENT)
    bridged = tracing.bridge_span(replace(EVENT, traceparent=sent.traceparent), "j-1", "bridges")
    run = start_span(held(HEADER, **{TRACEPARENT: bridged.traceparent}))
    emitted = tracing.send_span("shop-order-priced", replace(EVENT, traceparent=run.traceparent), 1)
    for span in (sent, bridged, run, emitted):
        span.end()
    seen = spans.seen()
    assert [span.name for span in seen] == [
        "send shop-order-placed",
        "process shop-order-placed",
        "run price",
        "send shop-order-priced",
    ]
    kinds = [SpanKind.PRODUCER, SpanKind.CONSUMER, SpanKind.CONSUMER, SpanKind.PRODUCER]
    assert [span.kind for span in seen] == kinds
    parents = [span.parent.span_id for span in seen if span.parent]
    assert parents == [int("b" * 16, 16), *[span_id(span) for span in seen[:3]]]
    assert {span.context.trace_id for span in seen if span.context} == {int("a" * 32, 16)}


def test_spans_say_whose_they_are(spans: Spans) -> None:
    """Job, stage, entity, attempt, and where on Kafka and SQS: by the names of the messaging conventions."""
    tracing.bridge_span(EVENT, "j-1", "bridges").end()
    part = PartOf(split_id=HEADER.task_id, ordinal=2, total=5)
    ran(HEADER.model_copy(update={"role": "part", "part": part}), DONE)
    bridge, run = (dict(span.attributes or {}) for span in spans.seen())
    assert bridge == {
        "messaging.system": "kafka",
        "messaging.operation.type": "process",
        "messaging.operation.name": "process",
        "messaging.destination.name": "shop-order-placed",
        "messaging.destination.partition.id": "3",
        "messaging.kafka.offset": 14,
        "messaging.kafka.message.key": "customer-7",
        "messaging.consumer.group.name": "bridges",
        "messaging.message.id": "e-1",
        "pipeline.job_id": "j-1",
        "pipeline.entity_id": "customer-7",
    }
    assert (run["messaging.system"], run["messaging.destination.name"]) == ("aws_sqs", "tasks")
    assert (run["pipeline.stage"], run["pipeline.attempt"], run["pipeline.part"]) == ("price", 1, "2/5")


def test_a_failed_run_is_an_error_with_its_traceback(spans: Spans) -> None:
    """The exception's class, message and traceback are on the span of the attempt that failed."""
    try:
        raise RuntimeError("no such price")
    except RuntimeError as error:
        ran(HEADER, failed(error))
    (span,) = spans.seen()
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "no such price")
    assert dict(span.attributes or {})["error.type"] == "builtins.RuntimeError"
    (exception,) = span.events
    assert exception.name == "exception"
    assert "no such price" in str(dict(exception.attributes or {})["exception.stacktrace"])


def test_a_run_given_back_says_so(spans: Spans) -> None:
    """A run cut off by a shutdown is no error."""
    ran(HEADER, Returned())
    (span,) = spans.seen()
    assert span.status.status_code is StatusCode.UNSET
    assert dict(span.attributes or {})["pipeline.outcome"] == "returned"


def test_a_gather_links_to_the_spans_of_its_parts(spans: Spans) -> None:
    """In the trace of its split, whichever workers ran the parts."""
    for ordinal in range(3):
        part = PartOf(split_id=HEADER.task_id, ordinal=ordinal, total=3)
        tracing.store_span(HEADER.model_copy(update={"role": "part", "part": part}), PRODUCER, 1).end()
    gather = HEADER.model_copy(update={"role": "gather"})
    ran(gather, DONE, parts=3)
    *parts, joined = spans.seen()
    assert [link.context for link in joined.links] == [as_known_elsewhere(span) for span in parts]
    assert len({span_id(part) for part in parts}) == 3


def as_known_elsewhere(span: ReadableSpan) -> trace.SpanContext:
    """The context of a span as another process knows it."""
    assert span.context is not None
    return trace.SpanContext(span.context.trace_id, span.context.span_id, True, span.context.trace_flags)


def test_links_are_bounded(spans: Spans) -> None:
    """A gather of a million parts has as many links as a span may have."""
    ran(HEADER.model_copy(update={"role": "gather"}), Returned(), parts=1_000_000)
    (span,) = spans.seen()
    assert len(span.links) == tracing.MOST_LINKS


def test_a_producer_that_does_not_sample_is_followed(spans: Spans) -> None:
    """Nothing of its trace is sent, and the trace still goes on to those that read it for logs."""
    span = tracing.bridge_span(replace(EVENT, traceparent=UNSAMPLED), "j-1", "bridges")
    span.end()
    assert spans.seen() == []
    assert span.traceparent is not None
    assert span.traceparent.startswith("00-" + "a" * 32)
    assert int(span.traceparent[-2:], 16) & 1 == 0


@pytest.mark.parametrize("given", [None, "00-" + "0" * 32 + "-" + "0" * 16 + "-01", "nonsense"])
def test_without_a_trace_one_begins(spans: Spans, given: str | None) -> None:
    """An event of a producer that does not trace, or whose header names no span, starts a trace."""
    span = tracing.bridge_span(replace(EVENT, traceparent=given), "j-1", "bridges")
    span.end()
    (seen,) = spans.seen()
    assert seen.parent is None
    assert span.traceparent is not None
    assert int(span.traceparent[3:35], 16) != 0


def test_spans_of_user_code_are_below_the_run(spans: Spans) -> None:
    """Spans of a task's own code belong to its run."""
    run = start_span(held(HEADER))
    with tracing.within(run.traceparent):
        spans.tracer._provider.get_tracer("shop").start_span("query").end()
    run.end()
    query, seen = spans.seen()
    assert query.parent is not None
    assert query.parent.span_id == span_id(seen)


def test_a_forked_child_sends_its_own_spans(spans: Spans) -> None:
    """Not what its parent had queued, and with a connection and a thread of its own."""
    tracing.bridge_span(EVENT, "j-1", "bridges").end()
    before = spans.tracer._sending._batches
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        made = spans.tracer._sending._batches
        tracing.bridge_span(EVENT, "j-2", "bridges").end()
        spans.tracer.stop()
        sent = spans.exporter.get_finished_spans()
        jobs = [dict(span.attributes or {})["pipeline.job_id"] for span in sent]
        os.write(write, repr((made, jobs)).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 1000).decode() == "(None, ['j-2'])"
    assert before is not None
    assert len(spans.seen()) == 1


def test_a_collector_that_hangs_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spans are dropped when the queue is full; the end of the process waits for a bounded time."""
    free = threading.Event()

    class Hanging(SpanExporter):
        def export(self, spans: object) -> SpanExportResult:
            free.wait(60)
            return SpanExportResult.FAILURE

    monkeypatch.setattr(trace, "set_tracer_provider", lambda _: None)
    monkeypatch.setattr(otel, "FLUSH", 0.2)
    tracer = otel.OpenTelemetry("shop", {}, [Hanging()])
    began = time.monotonic()
    for _ in range(3_000):
        tracer.span("internal", "work", None, {}).end()
    tracer.stop()
    assert time.monotonic() - began < 30
    free.set()


@pytest.mark.parametrize(
    ("variables", "on"),
    [
        ({}, False),
        ({"OTEL_SERVICE_NAME": "shop"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318/v1/traces"}, True),
        ({"OTEL_TRACES_EXPORTER": "console"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_TRACES_EXPORTER": "none"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_SDK_DISABLED": "true"}, False),
    ],
)
def test_only_the_standard_variables_turn_traces_on(variables: dict[str, str], on: bool) -> None:
    """Without somewhere to send them to, nothing is set up."""
    assert tracing.is_configured(variables) is on


def test_an_exporter_that_is_not_there_costs_no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Traces stay off, and the log says why."""
    monkeypatch.setattr(tracing, "_tracer", None)
    tracing.start("shop", {"OTEL_TRACES_EXPORTER": "carrier-pigeon"})
    assert tracing.bridge_span(EVENT, "j-1", "bridges").traceparent == PRODUCER


def test_ddtrace_can_add_its_headers_to_what_is_produced() -> None:
    """It sets them as in a dict, also where a record is kept with two headers of one name."""
    headers = OpenHeaders([("a", b"1"), ("a", b"2")])
    headers["x-datadog-trace-id"] = "42"
    assert list(headers) == [("a", b"1"), ("a", b"2"), ("x-datadog-trace-id", "42")]


def test_what_a_task_publishes_is_in_its_trace() -> None:
    """A chain's next task, or any other that user code sends; outside of a task nothing is added."""
    options = RunOptions(attempt=1, limit=None, start_before=0, traceparent=PRODUCER)
    token = running_options.set(options)
    inside: dict[str, object] = {}
    try:
        before_task_publish.send("t", headers=inside)
    finally:
        running_options.reset(token)
    outside: dict[str, object] = {}
    before_task_publish.send("t", headers=outside)
    assert (inside, outside) == ({TRACEPARENT: PRODUCER}, {})


def test_traces_off_hand_on_what_came() -> None:
    """Every hop, unchanged, and a running task's code sees no span."""
    assert tracing.send_span("t", EVENT).traceparent == PRODUCER
    assert tracing.bridge_span(EVENT, "j-1", "bridges").traceparent == PRODUCER
    span = start_span(held(HEADER))
    assert span.traceparent == PRODUCER
    end_span(span, failed(RuntimeError("x")))
    with tracing.within(PRODUCER):
        assert not trace.get_current_span().get_span_context().is_valid


ABSENT = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "opentelemetry":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent())
import pipeline.cli.bridge, pipeline.celery, pipeline.cli
from pipeline.telemetry import tracing
assert not any(name.startswith("opentelemetry") for name in sys.modules)
tracing.start("shop", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"})
assert tracing._tracer is None
tracing.stop()
"""


def test_without_the_extra_all_is_as_before() -> None:
    """Nothing imports OpenTelemetry; with its variables set, the log says what to install."""
    done = subprocess.run(
        [sys.executable, "-c", ABSENT], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "pip install 'celery-stages[otel]'" in done.stdout + done.stderr
