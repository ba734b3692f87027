"""A TCP proxy in a process of its own: delays each direction by half a round trip, counts HTTP requests.

``python -m benchmarks.proxy`` is that process. Its first line of input names the servers, and it prints their
ports; it answers every further line (``counts``, ``down NAME``, ``up NAME``) with the counts so far, and ends
with its input.

Bandwidth is not limited: bytes are forwarded after the delay, whatever their number.
"""

import asyncio
import contextlib
import json
import subprocess
import sys
import weakref
from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from benchmarks.http import Message, Stream
from benchmarks.units import write_units


@dataclass(frozen=True, kw_only=True)
class Counts:
    """The traffic to one server."""

    #: Requests by target.
    requests: Mapping[str, int]
    #: DynamoDB write units by purpose, where units are counted.
    units: Mapping[str, float]
    #: The same by target.
    units_of: Mapping[str, float]

    @property
    def total(self) -> int:
        """The number of all requests."""
        return sum(self.requests.values())


class Proxy:
    """A running proxy, seen from the benchmark."""

    def __init__(self, process: "subprocess.Popen[str]", urls: Mapping[str, str]) -> None:
        self._process = process
        #: The address of each server through the proxy, by its name.
        self.urls = urls

    def counts(self) -> dict[str, Counts]:
        """Return the counts so far, by the server's name."""
        answer = _ask(self._process, "counts")
        return {name: Counts(**counts) for name, counts in answer.items()}

    def down(self, server: str) -> None:
        """Make a server unreachable: its connections end, new ones are refused."""
        _ask(self._process, f"down {server}")

    def up(self, server: str) -> None:
        """Make it reachable again, at the same port."""
        _ask(self._process, f"up {server}")


@contextlib.contextmanager
def run_proxy(servers: Mapping[str, str], rtt_ms: float, *, count_units: bool = False) -> Iterator[Proxy]:
    """Run a proxy before ``servers`` (URLs by name), each ``rtt_ms`` farther away.

    ``count_units``: also add up the write units of requests to DynamoDB, which costs some CPU.
    """
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.proxy"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        order = {"servers": servers, "delay": rtt_ms / 2000, "count_units": count_units}
        ports = _ask(process, json.dumps(order))
        # The end of the block closes its input, which ends it.
        yield Proxy(process, {name: f"http://127.0.0.1:{port}" for name, port in ports.items()})


def _ask(process: "subprocess.Popen[str]", line: str) -> Any:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()
    return json.loads(process.stdout.readline())


# ─── The process ───


@dataclass(kw_only=True)
class Tally:
    """The growing counts of one server."""

    requests: Counter[str] = field(default_factory=Counter)
    units: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    units_of: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))


class _Way(asyncio.Protocol):
    """One end of a connection: its bytes go to the other end ``delay`` seconds later."""

    def __init__(self, delay: float) -> None:
        self._delay = delay
        self._on_its_way: deque[bytes | None] = deque()
        #: how many of those are due
        self._due = 0
        self.transport: asyncio.Transport | None = None
        self.other: _Way | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.set_write_buffer_limits(high=2**30)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.seen(data)
        self._send_later(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._send_later(None)

    def seen(self, data: bytes) -> None:
        """Count the bytes that pass."""

    def _send_later(self, data: bytes | None) -> None:
        # First in, first out: timers of the same moment may fire in any order.
        self._on_its_way.append(data)
        if self._delay:
            asyncio.get_running_loop().call_later(self._delay, self._one_more_due)
        else:
            self._one_more_due()

    def _one_more_due(self) -> None:
        self._due += 1
        self.hand_over()

    def hand_over(self) -> None:
        """Send the other end everything that is due, once it is connected."""
        if self.other is None or self.other.transport is None:
            return
        while self._due:
            self._due -= 1
            data = self._on_its_way.popleft()
            if data is None:
                self.other.transport.close()
            else:
                self.other.transport.write(data)


class _FromClient(_Way):
    def __init__(
        self, delay: float, address: tuple[str, int], tally: Tally | None, count_units: bool
    ) -> None:
        super().__init__(delay)
        self._address = address
        self._tally = tally
        self._requests = Stream(keep_bodies=count_units) if tally is not None else None
        self._answers = Stream(keep_bodies=True) if count_units else None
        self._asked: deque[Message] = deque()
        self._connecting: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._connecting = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        server = _FromServer(self._delay, self)
        try:
            await asyncio.get_running_loop().create_connection(lambda: server, *self._address)
        except OSError:
            assert self.transport is not None
            self.transport.close()
            return
        self.other = server
        self.hand_over()

    def seen(self, data: bytes) -> None:
        if self._requests is None or self._tally is None:
            return
        for message in self._requests.feed(data):
            self._tally.requests[message.target] += 1
            if self._answers is not None:
                self._asked.append(message)

    def answered(self, data: bytes) -> None:
        """Add the cost that an answer reports for its request."""
        if self._answers is None or self._tally is None:
            return
        for answer in self._answers.feed(data):
            request = self._asked.popleft()
            for kind, units in write_units(request.target, request.body, answer.body).items():
                self._tally.units[kind] += units
                self._tally.units_of[request.target] += units


class _FromServer(_Way):
    def __init__(self, delay: float, client: _FromClient) -> None:
        super().__init__(delay)
        self.other = client
        self._client = client

    def seen(self, data: bytes) -> None:
        self._client.answered(data)


class _Gate:
    """The listening side of one server."""

    def __init__(self, url: str, delay: float, count_units: bool) -> None:
        self.tally = Tally()
        self.port = 0
        self._server: asyncio.Server | None = None
        self._open: weakref.WeakSet[_Way] = weakref.WeakSet()
        address = (str(urlsplit(url).hostname), int(urlsplit(url).port or 80))
        # Only HTTP is parsed, not Redis's protocol.
        tally = self.tally if urlsplit(url).scheme == "http" else None
        self._make = partial(_FromClient, delay, address, tally, count_units)

    async def up(self) -> None:
        """Listen, at the previous port if there was one."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._accept, "127.0.0.1", self.port, backlog=512)
        self.port = self._server.sockets[0].getsockname()[1]

    async def down(self) -> None:
        """Refuse and end all connections."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for way in self._open:
            if way.transport is not None:
                way.transport.abort()

    def _accept(self) -> _Way:
        way = self._make()
        self._open.add(way)
        return way


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    order = json.loads(await loop.run_in_executor(None, sys.stdin.readline))
    gates = {
        name: _Gate(url, order["delay"], order["count_units"] and name == "dynamodb")
        for name, url in order["servers"].items()
    }
    for gate in gates.values():
        await gate.up()
    _print({name: gate.port for name, gate in gates.items()})
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        match line.split():
            case ["up", name]:
                await gates[name].up()
            case ["down", name]:
                await gates[name].down()
        _print({name: vars(gate.tally) for name, gate in gates.items()})


def _print(value: Any) -> None:
    print(json.dumps(value), flush=True)


if __name__ == "__main__":
    asyncio.run(_serve())
