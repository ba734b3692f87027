"""The HTTP port in the hands of strangers: no memory, no time and no details for those without the token."""

import base64
import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import psutil
import pytest
from pydantic import SecretStr

from pipeline.author.registry import Registry
from pipeline.errors import ConfigurationError
from pipeline.observe import guard
from pipeline.observe.server import WebServer
from pipeline.web.pages import overview
from pipeline.web.server import PageConnection, jobs_server
from tests import builders

TOKEN = "only-for-tests-of-strangers"
BASIC = {"Authorization": "Basic " + base64.b64encode(f"ada:{TOKEN}".encode()).decode()}
BROWSER = {**BASIC, "Accept": "text/html"}
MIB = 1024 * 1024


@dataclass(frozen=True)
class Answer:
    """An answer to a request."""

    status: int
    headers: dict[str, str]
    body: bytes


@pytest.fixture(scope="module")
def server() -> Iterator[WebServer]:
    """The jobs page of a service that reaches nothing."""
    with pytest.MonkeyPatch.context() as patch, socket.socket() as taken:
        # Bound and not listening: whoever connects is refused, and nobody else gets the port.
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for name in ("AWS_ENDPOINT_URL_SQS", "AWS_ENDPOINT_URL_DYNAMODB"):
            patch.setenv(name, f"http://{address}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
            patch.setenv(name, "us-east-1")
        patch.setattr(guard, "WRONG_DELAY", 0.2)
        settings = builders.settings(
            kafka_bootstrap_servers=address,
            kafka_security_protocol="PLAINTEXT",
            sqs_task_queue_url=f"http://{address}/1/a.fifo",
            sqs_dlq_url=f"http://{address}/1/b.fifo",
            web_token=SecretStr(TOKEN),
        )
        with jobs_server(settings, Registry(), "127.0.0.1", 0) as server:
            server.start()
            try:
                yield server
            finally:
                server.stop()


def ask(server: WebServer, path: str, headers: dict[str, str] | None = None, method: str = "GET") -> Answer:
    """The answer to one request; nothing is followed."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    try:
        connection.request(method, path, headers=headers or {})
        response = connection.getresponse()
        return Answer(response.status, dict(response.getheaders()), response.read())
    finally:
        connection.close()


def test_a_body_is_not_read_before_the_token(server: WebServer) -> None:
    """Forty half-sent bodies of 8 MiB without a token: each is refused at once, and takes no memory."""
    before = psutil.Process().memory_info().rss
    head = f"POST /api/v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: {8 * MIB}\r\n"
    half = f"{head}Content-Type: application/json\r\n\r\n".encode() + b"{" * (4 * MIB)
    with ExitStack() as clients:
        for _ in range(40):
            client = clients.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=20))
            client.sendall(half)
            assert client.recv(100).startswith(b"HTTP/1.1 401")
        assert psutil.Process().memory_info().rss - before < 40 * MIB
        assert ask(server, "/live").status == 200


def test_idle_connections_keep_nobody_out(server: WebServer) -> None:
    """More of them than the server has places for."""
    with ExitStack() as clients:
        for _ in range(PageConnection.limit + 100):
            clients.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=20))
        assert ask(server, "/live").status == 200


@pytest.mark.parametrize("path", ["/health", "/kafka/health", "/sqs/health", "/ready"])
def test_health_has_no_details_for_strangers(server: WebServer, path: str) -> None:
    """The status is for everybody, names and addresses for those with the token."""
    stranger, operator = ask(server, path), ask(server, path, BASIC)
    assert stranger.status == operator.status == 503
    assert set(json.loads(stranger.body)) == {"status"}
    assert set(json.loads(operator.body)) > {"status"}


def test_a_liveness_probe_needs_no_token(server: WebServer) -> None:
    """Its answer is the same for everybody."""
    assert json.loads(ask(server, "/live").body) == {"status": "live"}


@pytest.mark.parametrize(
    "path", ["/api/v1/openapi.json", "/api/v1/nothing", "/metrics", "/jobs", "/watch/pulse"]
)
def test_nothing_else_is_for_strangers(server: WebServer, path: str) -> None:
    """Not the description of the API either, nor which of its paths exist."""
    assert ask(server, path).status == 401
    started = time.monotonic()
    assert ask(server, path, {"Authorization": "Bearer wrong"}).status == 401
    assert time.monotonic() - started >= 0.2


def test_no_redirect_goes_to_the_host_that_was_sent(server: WebServer) -> None:
    """A path with a slash too many is not found; it leads nowhere."""
    for path in ("/jobs/", "/dead-letters/", "/api/v1/jobs/", "/health/"):
        answer = ask(server, path, {**BROWSER, "Host": "evil.example"})
        assert answer.status == 404, path
        assert "location" not in {name.lower() for name in answer.headers}


@pytest.mark.parametrize(
    "path",
    [
        "/jobs/j/parts/s?after=" + "9" * 5_000,
        "/jobs/j/parts/s?after=-1",
        "/jobs/j/parts/s?after=%D9%A3",
        "/jobs/j/parts/" + "s" * 3_000,
        "/jobs/" + "a" * 3_000,
        "/jobs/%00",
        "/jobs?entity=" + "a" * 3_000,
        "/jobs?text=" + "%F0%9F%98%80" * 2_000,
        "/dead-letters/" + "a" * 5_000,
        "/dead-letters?error=" + "*a" * 2_000,
        "/api/v1/jobs/" + "a" * 3_000,
        "/api/v1/jobs/j/stages/s/parts?after=" + "9" * 5_000,
    ],
    ids=lambda path: path[:40],
)
def test_an_address_that_means_nothing_is_the_callers_error(server: WebServer, path: str) -> None:
    """Neither an error of the page, nor a service that is away."""
    assert ask(server, path, BROWSER).status == 422


def test_the_streams_take_so_many_browsers(server: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """One more is turned away; pages and probes are answered as before, and a place that is left is free."""
    monkeypatch.setattr(overview, "WATCHERS", 3)
    asked = (
        f"GET /watch/pulse HTTP/1.1\r\nHost: x\r\nAuthorization: {BASIC['Authorization']}\r\n\r\n".encode()
    )

    def watch() -> socket.socket:
        client = socket.create_connection(("127.0.0.1", server.port), timeout=20)
        client.sendall(asked)
        return client

    with ExitStack() as clients:
        for _ in range(3):
            client = clients.enter_context(watch())
            assert client.recv(100).startswith(b"HTTP/1.1 200")
        with watch() as turned_away:
            assert turned_away.recv(100).startswith(b"HTTP/1.1 503")
        assert ask(server, "/live").status == 200
        client.close()
        freed = threading.Event()
        while not freed.is_set():
            with watch() as next_one:
                if next_one.recv(100).startswith(b"HTTP/1.1 200"):
                    freed.set()


@pytest.mark.parametrize("token", ["sesame", "aaaaaaaaaaaaaaaaaaaaaaaa", "letmein"])
def test_a_token_that_can_be_guessed_serves_this_machine_only(token: str) -> None:
    """The error names the setting and a way to a better one, not the token."""
    settings = builders.settings(web_token=SecretStr(token))
    with (
        pytest.raises(ConfigurationError, match=r"WEB_TOKEN can be guessed.*0\.0\.0\.0.*secrets") as refused,
        jobs_server(settings, Registry(), "0.0.0.0", 0),  # noqa: S104
    ):
        pass
    assert token not in str(refused.value)
