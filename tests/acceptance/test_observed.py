"""Observation of a bridge and a worker: log lines, health, Sentry."""

import json
import subprocess
import sys
import sysconfig
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from pipeline.services.children import children
from pipeline.services.environment import Services
from tests.conftest import MakeEnvironment
from tests.processes import free_port, wait_until

PIPELINE = Path(sysconfig.get_path("scripts")) / "pipeline"

#: Metrics of failures, which must be exposed as zero before anything happens.
COUNTED_FROM_0 = {
    "bridge": ('pipeline_sweep_findings_total{kind="lost"} 0.0',),
    "worker": (
        'pipeline_tasks_failed_total{stage="price"} 0.0',
        'pipeline_tasks_settled_total{outcome="dead",stage="price"} 0.0',
    ),
}

#: Metrics after two jobs, one of which failed: a job is seen to end before its task is counted.
COUNTED = {
    "bridge": ("pipeline_events_passed_total 2.0",),
    "worker": (
        'pipeline_tasks_settled_total{outcome="done",stage="price"} 1.0',
        'pipeline_tasks_settled_total{outcome="dead",stage="price"} 1.0',
        'pipeline_job_seconds_count{state="complete"} 1.0',
    ),
}

SHOP = """\
import logging

import structlog

from pipeline import PermanentError, stage


@stage(consumes="order-placed")
def price(order: dict[str, int]) -> None:
    logging.getLogger("shop").info("pricing %d lines", order["lines"])
    structlog.stdlib.get_logger("shop").info("order.priced", total=order["lines"] * 10)
    if order["lines"] < 0:
        raise PermanentError("nobody can order less than nothing")
"""


@pytest.fixture
def sentry() -> Iterator[tuple[str, list[str]]]:
    """A DSN, and what is sent to it."""
    bodies: list[str] = []

    class Ingest(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            body = self.rfile.read(length)
            if self.headers.get("Content-Encoding") == "gzip":
                import gzip

                body = gzip.decompress(body)
            bodies.append(body.decode(errors="replace"))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Ingest) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://key@127.0.0.1:{server.server_port}/1", bodies
        server.shutdown()
        thread.join()


def ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=60) as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError as error:
        error.close()
        return False
    except OSError:
        return False


def read_metrics(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
        return str(answer.read().decode())


def wait_for_metrics(ports: Mapping[str, int], metrics: Mapping[str, Sequence[str]]) -> None:
    """Wait until each process shows its metrics."""

    def shown() -> bool:
        return all(each in read_metrics(ports[name]) for name, every in metrics.items() for each in every)

    wait_until(shown, f"{metrics}")


def lines(log: Path) -> list[dict[str, Any]]:
    """The lines of a log, all of which must be JSON objects."""
    return [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]


def test_a_task_can_be_followed_through_the_logs(
    embedded_services: Services,
    make_environment: MakeEnvironment,
    sentry: tuple[str, list[str]],
    tmp_path: Path,
) -> None:
    """The user's own lines and the worker's say which task; one that fails for good is one Sentry event."""
    (tmp_path / "shop.py").write_text(SHOP)
    dsn, reports = sentry
    ports = {"bridge": free_port(), "worker": free_port()}
    environment = make_environment(embedded_services, TASK_MODULES="shop", SENTRY_DSN=dsn)

    def submit(order: str, code: int) -> str:
        done = subprocess.run(
            [PIPELINE, "submit", "price", "--data", order, "--entity", "order-7", "--wait", "--json"],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return str(json.loads(done.stdout)["job_id"])

    with children() as started:
        for (name, port), arguments in zip(ports.items(), ((), ("--loglevel", "INFO")), strict=True):
            with (tmp_path / f"{name}.log").open("wb") as log:
                started.start(
                    [sys.executable, "-m", "celery", "-A", "pipeline", name, *arguments],
                    environment={**environment, "HEALTH_PORT": str(port)},
                    output=log,
                    folder=tmp_path,
                )
        wait_until(lambda: all(map(ready, ports.values())), "bridge and worker are ready")
        # Prometheus sees no increase in what begins with the first one.
        wait_for_metrics(ports, COUNTED_FROM_0)
        job_id = submit('{"lines": 3}', code=0)
        failed = submit('{"lines": -1}', code=1)
        wait_until(lambda: any(failed in body for body in reports), "Sentry is told")
        wait_for_metrics(ports, COUNTED)
    written = lines(tmp_path / "worker.log")
    of_job = [line for line in written if line.get("job_id") == job_id]
    assert [line["event"] for line in of_job] == ["pricing 3 lines", "order.priced", "task.done"]
    for line in of_job:
        assert line["entity_id"] == "order-7"
        assert (line["stage"], line["attempt"]) == ("price", 1)
        assert line["topic"].endswith("order-placed")
        assert line["offset"] >= 0
        assert line["partition"] >= 0
        assert line["task_id"] == of_job[0]["task_id"]
    assert of_job[-1]["duration_ms"] > 0
    dead = [line["event"] for line in written if line.get("job_id") == failed]
    assert dead == ["pricing -1 lines", "order.priced", "task.dead_letter"]
    assert "nobody can order" in next(line for line in written if line["event"] == dead[-1])["exception"]
    [report] = [body for body in reports if failed in body]
    assert "nobody can order less than nothing" in report
    assert job_id not in report
