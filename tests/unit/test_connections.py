"""Connections of the HTTP servers: bounded in number and time, whatever clients send or leave out."""

import asyncio
import os
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, suppress

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from pipeline.observe import connections
from pipeline.observe.connections import Connection
from pipeline.observe.server import BACKLOG, Server
from pipeline.worker.celerychecks import HEALTH_FILES
from tests.loglines import log_lines
from tests.processes import PATIENCE, wait_until

GET = b"GET /live HTTP/1.1\r\nHost: x\r\n\r\n"
#: Seconds that a timeout lasts here: one that ends, and one that a client stays below on a busy machine.
SHORT, PAUSE = 0.4, 4.0


#: Released by each request that is worked on.
WORKING = threading.Semaphore(0)


async def live(_: Request) -> Response:
    return PlainTextResponse("live")


async def slow(_: Request) -> Response:
    WORKING.release()
    await asyncio.sleep(2 * SHORT)
    return PlainTextResponse("live")


async def wait(_: Request) -> Response:
    """Answer late, as a wrong token is answered."""
    WORKING.release()
    await asyncio.sleep(5)
    return PlainTextResponse("late")


async def refuse(_: Request) -> Response:
    """Answer without a look at the body."""
    return PlainTextResponse("refused", 401)


async def read(request: Request) -> Response:
    return PlainTextResponse(str(len(await request.body())))


async def stream(_: Request) -> Response:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 65_536
            await asyncio.sleep(0.001)

    return StreamingResponse(endless())


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The port of a server."""
    routes = [
        Route("/live", live),
        Route("/slow", slow),
        Route("/wait", wait),
        Route("/refuse", refuse, methods=["POST"]),
        Route("/read", read, methods=["POST"]),
        Route("/stream", stream),
    ]
    config = uvicorn.Config(
        Starlette(routes=routes), http=Connection, ws="none", log_config=None, lifespan="off", backlog=BACKLOG
    )
    server = Server(config, [])
    listening = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    yield listening.getsockname()[1]
    server.force_exit = server.should_exit = True
    thread.join(PATIENCE)
    assert not thread.is_alive()


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the timeouts for requests short."""
    monkeypatch.setattr(connections, "SEND_TIMEOUTS", dict.fromkeys(connections.SEND_TIMEOUTS, SHORT))


def connect(port: int, sent: bytes = b"", address: str = "127.0.0.1") -> socket.socket:
    """A client that has sent this."""
    client = socket.create_connection(("127.0.0.1", port), timeout=60, source_address=(address, 0))
    try:
        client.sendall(sent)
    except OSError:
        # It was dropped already. An object of a socket that is left open is a warning.
        client.close()
        raise
    return client


def answer(client: socket.socket) -> bytes:
    """All that comes until the server closes."""
    received = b""
    try:
        while piece := client.recv(65_536):
            received += piece
    except ConnectionResetError:
        pass
    return received


@pytest.mark.usefixtures("short")
def test_idle_connections_take_few_descriptors_and_keep_no_probe_out(port: int) -> None:
    """Four hundred clients that never finish their headers: the limit holds, and a request is answered."""
    before, most = len(os.listdir("/proc/self/fd")), 0
    clients = []
    for _ in range(400):
        try:
            clients.append(connect(port, b"GET /live HTTP/1.1\r\nX: "))
        except OSError:
            break
        # The clients' own ends are in this process, too.
        most = max(most, len(os.listdir("/proc/self/fd")) - before - len(clients))
    assert most <= HEALTH_FILES
    with connect(port, GET) as probe:
        assert probe.recv(100).startswith(b"HTTP/1.1 200")
    wait_until(lambda: _open_at_server(before, clients) <= Connection.limit, "the others to be dropped")
    for client in clients:
        client.close()


def _open_at_server(before: int, clients: list[socket.socket]) -> int:
    return len(os.listdir("/proc/self/fd")) - before - len(clients)


def test_a_request_that_is_worked_on_keeps_its_place_in_a_flood(port: int) -> None:
    """Connections that come faster than it is answered take the place of others that say nothing."""
    with connect(port, GET.replace(b"/live", b"/slow")) as asked:
        assert WORKING.acquire(timeout=PATIENCE)
        idle = [connect(port, b"GET /") for _ in range(4 * Connection.limit)]
        assert asked.recv(100).startswith(b"HTTP/1.1 200")
    for each in idle:
        each.close()


def test_a_client_that_is_slow_to_ask_keeps_its_place_beside_a_flood_from_elsewhere(port: int) -> None:
    """It has one connection, and the flood's address has all others."""
    with connect(port) as asked:
        idle = [connect(port, b"GET /", "127.0.0.2") for _ in range(4 * Connection.limit)]
        asked.sendall(GET)
        assert asked.recv(100).startswith(b"HTTP/1.1 200")
    for each in idle:
        each.close()


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET /live HTTP/1.1\r\nX: ",
        b"POST /read HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\nsome",
        GET + b"GET /li",
    ],
    ids=["nothing", "headers", "body", "second request"],
)
@pytest.mark.usefixtures("short")
def test_a_client_that_sends_no_further_is_disconnected(port: int, sent: bytes) -> None:
    """A request may miss any of its parts."""
    with connect(port, sent) as client:
        answer(client)


def test_a_flood_is_ranked_for_many_connections_at_a_time(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranking all for each new one made a page with 512 connections answer seconds late."""
    monkeypatch.setattr(Connection, "limit", 64)
    with log_lines(connections) as lines, ExitStack() as held:
        for _ in range(2 * Connection.limit):
            with suppress(OSError):
                held.enter_context(connect(port, b"GET /"))
        with connect(port, GET) as probe:
            assert probe.recv(8) == b"HTTP/1.1"
    full = [line for line in lines if line["event"] == "http.full"]
    assert 0 < len(full) <= Connection.limit // 4 + 1


@pytest.mark.parametrize(
    "sent",
    [b"GET /live HTTP/1.1\r\nX: ", b"POST /refuse HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\n\r\n"],
)
@pytest.mark.usefixtures("short")
def test_a_client_that_sends_a_byte_now_and_then_is_disconnected(port: int, sent: bytes) -> None:
    """The time for a request is not extended by pieces of it, nor by an answer that came before its end."""
    with connect(port, sent) as client:
        wait_until(lambda: not _takes(client), "the server to end the connection")


def _takes(client: socket.socket) -> bool:
    """Whether the server takes another byte."""
    try:
        client.sendall(b"x")
    except ConnectionError:
        return False
    return True


def test_a_client_that_does_not_read_is_disconnected(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that nobody takes is not kept for ever."""
    monkeypatch.setattr(connections, "READ_TIMEOUT", SHORT)
    with connect(port, b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n") as client:
        assert client.recv(100).startswith(b"HTTP/1.1 200")
        # The server's end of the connection is in this process, too.
        during = len(os.listdir("/proc/self/fd"))
        wait_until(lambda: len(os.listdir("/proc/self/fd")) < during, "the server to close the connection")
        answer(client)


def test_a_client_that_reads_slowly_is_not_disconnected(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each pause in its reading has a time of its own, not the answer as a whole."""
    monkeypatch.setattr(connections, "READ_TIMEOUT", PAUSE)
    with connect(port, b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n") as client:
        ends = time.monotonic() + 1.25 * PAUSE
        while time.monotonic() < ends:
            assert client.recv(1_000_000)
            time.sleep(PAUSE / 50)


def test_an_answer_that_is_being_sent_is_not_cut_off(port: int) -> None:
    """A full server drops those that wait, not the stream that somebody reads."""
    with connect(port, b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n") as reader:
        assert reader.recv(100)
        clients = [connect(port) for _ in range(2 * Connection.limit)]
        ends = time.monotonic() + 2 * SHORT
        while time.monotonic() < ends:
            assert reader.recv(65_536)
        for client in clients:
            client.close()


def test_requests_on_one_connection_have_their_time_each(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that keeps its connection is disconnected only when it pauses."""
    monkeypatch.setattr(connections, "SEND_TIMEOUTS", dict.fromkeys(connections.SEND_TIMEOUTS, PAUSE))
    with connect(port) as client:
        for _ in range(10):
            time.sleep(PAUSE / 8)
            client.sendall(GET)
            received = b""
            while not received.endswith(b"live"):
                piece = client.recv(1_000)
                assert piece
                received += piece


def test_requests_that_are_answered_late_keep_no_probe_out(port: int) -> None:
    """As many as there are places, each complete: a new connection still gets a place, and its answer."""
    with ExitStack() as clients:
        for _ in range(Connection.limit):
            clients.enter_context(connect(port, GET.replace(b"/live", b"/wait")))
            assert WORKING.acquire(timeout=PATIENCE)
        with connect(port, GET) as probe:
            assert probe.recv(100).startswith(b"HTTP/1.1 200")
