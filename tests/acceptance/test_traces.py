"""The spans that an OpenTelemetry collector gets from the commands a person types."""

import gzip
import json
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from pipeline.kafka import EventProducer, OutgoingRecord, newest_records
from pipeline.services.children import children
from pipeline.services.environment import Services
from pipeline.settings import load_settings
from tests.conftest import MakeEnvironment
from tests.processes import wait_until

PIPELINE = Path(sysconfig.get_path("scripts")) / "pipeline"

SHOP = """\
from collections.abc import Iterable, Iterator

from opentelemetry import trace

from pipeline import current_task, stage


@stage(consumes="order-placed", emits="order-opened")
def open_order(order: list[int]) -> list[int]:
    with trace.get_tracer("shop").start_as_current_span("look up"):
        return order


@stage(consumes="order-opened", emits="order-priced")
def price(line: int) -> int:
    return line * 10


@price.split
def lines(order: list[int]) -> Iterator[int]:
    yield from order


@price.gather
def total(order: list[int], prices: Iterable[int]) -> int:
    return sum(prices)


@stage(consumes="order-priced")
def ship(total: int) -> None:
    if total < 0:
        raise ValueError("nothing to ship")
"""

TRACE = "a" * 32

#: Without the extra: nothing of OpenTelemetry can be imported in any of the processes.
ABSENT = """\
import sys


class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "opentelemetry":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Absent())
"""

PLAIN_SHOP = """\
from pipeline import stage


@stage(consumes="order-placed", emits="order-opened")
def open_order(order: int) -> int:
    return order


@stage(consumes="order-opened")
def ship(order: int) -> None: ...
"""


class Collector:
    """Takes spans over HTTP, as a collector does."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.services: set[str] = set()
        self.url = ""

    def take(self, body: bytes) -> None:
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            named = {each.key: each.value.string_value for each in resource.resource.attributes}
            self.services.add(named["service.name"])
            for scope in resource.scope_spans:
                self.spans += scope.spans

    def named(self, name: str) -> list[Span]:
        return [span for span in self.spans if span.name == name]

    def one(self, name: str) -> Span:
        (span,) = self.named(name)
        return span


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()

    class Ingest(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            made.take(gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body)
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Ingest) as server:
        made.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield made
        server.shutdown()
        thread.join()


@contextmanager
def bridge_and_worker(environment: dict[str, str], folder: Path) -> Iterator[None]:
    """Both run in the block, with all that they need made before."""
    subprocess.run([PIPELINE, "provision"], cwd=folder, env=environment, capture_output=True, check=True)
    with children() as started:
        for name, arguments in (("bridge", ()), ("worker", ("--loglevel", "INFO"))):
            with (folder / f"{name}.log").open("wb") as log:
                started.start(
                    [sys.executable, "-m", "celery", "-A", "pipeline", name, *arguments],
                    environment=environment,
                    output=log,
                    folder=folder,
                )
        yield


def run_job(data: str, environment: dict[str, str], folder: Path) -> dict[str, Any]:
    """A job from its submission to its end."""
    with bridge_and_worker(environment, folder):
        done = subprocess.run(
            [PIPELINE, "submit", "order-placed", "--data", data, "--entity", "order-7", "--wait", "--json"],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        logs = "".join((folder / f"{name}.log").read_text() for name in ("bridge", "worker"))
        assert done.returncode == 0, done.stdout + done.stderr + logs
    job: dict[str, Any] = json.loads(done.stdout)
    return job


def attributes(span: Span) -> dict[str, str]:
    return {each.key: each.value.string_value for each in span.attributes}


def test_a_job_is_one_trace_through_all_processes(
    embedded_services: Services, make_environment: MakeEnvironment, collector: Collector, tmp_path: Path
) -> None:
    """Submit, bridge, run, split, parts, gather and emitted events, each below what made it."""
    (tmp_path / "shop.py").write_text(SHOP)
    environment = make_environment(
        embedded_services,
        TASK_MODULES="shop",
        SERVICE_NAME="traced",
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
        OTEL_BSP_SCHEDULE_DELAY="200",
    )
    job = run_job("[1, 2, 3]", environment, tmp_path)
    # The processes have ended, and each sent what it had before.
    spans = collector.spans
    assert collector.services == {"traced"}
    assert len({span.trace_id for span in spans}) == 1
    topic = environment["TOPIC_PREFIX"]
    by_id = {span.span_id: span for span in spans}
    assert len(by_id) == len(spans)

    def chain(span: Span) -> list[str]:
        above = [span.name]
        while span.parent_span_id:
            span = by_id[span.parent_span_id]
            above.append(span.name)
        return above[::-1]

    ship = chain(collector.one("run ship"))
    assert ship == [
        f"send {topic}order-placed",
        f"process {topic}order-placed",
        "run open_order",
        f"send {topic}order-opened",
        f"process {topic}order-opened",
        "run price.split",
        "run price.gather",
        f"send {topic}order-priced",
        f"process {topic}order-priced",
        "run ship",
    ]
    assert chain(collector.one(f"send {topic}jobs"))[-2] == "run ship"
    parts, stored = collector.named("run price"), collector.named("store price")
    assert {chain(part)[-2] for part in parts} == {"run price.split"}
    assert sorted(attributes(part)["pipeline.part"] for part in parts) == ["0/3", "1/3", "2/3"]
    gather = collector.one("run price.gather")
    assert {link.span_id for link in gather.links} == {span.span_id for span in stored}
    assert chain(collector.one("look up"))[-2] == "run open_order"
    for span in (gather, *parts, *stored):
        seen = attributes(span)
        assert (seen["pipeline.job_id"], seen["pipeline.stage"]) == (job["job_id"], "price")
        assert seen["pipeline.entity_id"] == "order-7"


def test_without_the_extra_a_job_runs_and_its_trace_is_handed_on(
    embedded_services: Services, make_environment: MakeEnvironment, tmp_path: Path
) -> None:
    """OpenTelemetry cannot be imported, and its variables are set all the same."""
    (tmp_path / "shop.py").write_text(PLAIN_SHOP)
    (tmp_path / "sitecustomize.py").write_text(ABSENT)
    environment = make_environment(
        embedded_services,
        TASK_MODULES="shop",
        PYTHONPATH=str(tmp_path),
        OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1",
    )
    settings = load_settings(environment)
    headers = (("traceparent", f"00-{TRACE}-{'b' * 16}-01".encode()), ("x-datadog-trace-id", b"42"))
    record = OutgoingRecord(topic=settings.topic("order-placed"), key=b"order-7", value=b"7", headers=headers)
    worker = tmp_path / "worker.log"

    def said() -> list[dict[str, Any]]:
        # The last line may be half written.
        written = worker.read_text().splitlines(keepends=True)
        return [json.loads(line) for line in written if line.startswith("{") and line.endswith("\n")]

    def done() -> list[dict[str, Any]]:
        return [line for line in said() if line["event"] == "task.done"]

    with bridge_and_worker(environment, tmp_path):
        producer = EventProducer(settings, "test")
        try:
            assert producer.emit([record], 30) == [None]
        finally:
            producer.close(5)
        wait_until(lambda: len(done()) == 2, "both tasks are done")
    assert "tracing.off" in {line["event"] for line in said()}
    # A task's event is emitted, and its successor may end, before its own end is logged.
    assert sorted((line["stage"], line["trace_id"]) for line in done()) == [
        ("open_order", TRACE),
        ("ship", TRACE),
    ]
    emitted = newest_records(settings, settings.topic("order-opened"), 1)[0]
    assert set(headers) <= set(emitted.headers)
