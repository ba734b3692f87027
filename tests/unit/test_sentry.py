"""Sentry: what is reported, and that nothing is reported without a DSN."""

import gzip
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from pipeline.settings import Settings
from pipeline.telemetry import sentry as module
from pipeline.telemetry.sentry import Sentry
from tests import builders
from tests.processes import PATIENCE

SETTINGS = builders.settings(service_name="orders")


@pytest.fixture
def server() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A DSN, and the events that arrive at it."""
    events: list[dict[str, Any]] = []

    class Ingest(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            lines = body.splitlines()
            if json.loads(lines[1]).get("type") == "event":
                events.append(json.loads(lines[2]))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Ingest) as ingest:
        thread = threading.Thread(target=ingest.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://key@127.0.0.1:{ingest.server_port}/1", events
        ingest.shutdown()
        thread.join()


def report(sentry: Sentry, message: str) -> None:
    sentry.report(
        error="builtins.ValueError",
        message=message,
        traceback="Traceback …",
        stage="extract",
        tags={"job_id": "j1", "entity_id": "order-7", "attempts": 4},
    )


def test_a_failure_is_an_event_with_its_job(
    server: tuple[str, list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Class, message, traceback and tags; failures of one kind in one stage are one issue."""
    monkeypatch.setattr(module, "FLUSH", PATIENCE)
    dsn, events = server
    sentry = Sentry(Settings.model_validate({**SETTINGS.model_dump(), "sentry_dsn": dsn}))
    report(sentry, "page 3 is torn")
    report(sentry, "page 9 is torn")
    sentry.close()
    first, second = events
    assert first["exception"]["values"][0]["type"] == "ValueError"
    assert first["exception"]["values"][0]["value"] == "page 3 is torn"
    assert first["tags"] == {"job_id": "j1", "entity_id": "order-7", "attempts": "4"}
    assert first["extra"]["traceback"] == "Traceback …"
    assert first["fingerprint"] == second["fingerprint"] == ["orders", "extract", "builtins.ValueError"]


@pytest.mark.parametrize("dsn", [None, "not a dsn"])
def test_without_a_dsn_nothing_happens(dsn: str | None) -> None:
    """Nor with one that is none: reporting never costs a task."""
    sentry = Sentry(Settings.model_validate({**SETTINGS.model_dump(), "sentry_dsn": dsn}))
    report(sentry, "x")
    sentry.close()
