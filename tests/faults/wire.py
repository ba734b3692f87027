"""The wire: an HTTP proxy before SQS and DynamoDB that applies a fault's mishaps to requests.

Every kind of process has ports of its own, so a fault may hit the bridge and spare the workers. It runs on
a thread of the test; ``mishaps.py`` has what it can do.
"""

import asyncio
import contextlib
import json
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from benchmarks.http import Message, Stream

#: Headers about the original body, or about one connection.
_OF_THE_BODY = ("content-length", "transfer-encoding", "x-amz-crc32", "connection")


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An answer to a client."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def json(self) -> dict[str, Any]:
        """Return the body."""
        content: dict[str, Any] = json.loads(self.body or b"{}")
        return content

    def with_json(self, content: Mapping[str, Any]) -> "Answer":
        """Return the same answer with another body."""
        return replace(self, body=json.dumps(content).encode())


class Passage:
    """One request on its way from a client to a server."""

    def __init__(self, client: str, server: str, request: Message, upstream: "_Upstream") -> None:
        #: The kind of process that asks: "bridge", "worker" …
        self.client = client
        #: "sqs" or "dynamodb".
        self.server = server
        #: The operation, as AWS names it: ``SendMessageBatch``.
        self.action = request.target.rpartition(".")[2]
        self._request = request
        self._upstream = upstream

    @property
    def json(self) -> dict[str, Any]:
        """Return the request's body."""
        content: dict[str, Any] = json.loads(self._request.body or b"{}")
        return content

    @property
    def text(self) -> str:
        """Return the request's body as text."""
        return self._request.body.decode()

    async def forward(self, content: Mapping[str, Any] | None = None) -> Answer:
        """Ask the server, with another body if given; return its answer."""
        body = self._request.body if content is None else json.dumps(content).encode()
        return await self._upstream.ask(self._request, body)


#: The outcome of a request: the answer, or None for a connection that is cut without one.
Script = Callable[[Passage], Awaitable[Answer | None]]


@dataclass(eq=False, kw_only=True)
class Rule:
    """The requests that a script applies to."""

    script: Script
    client: str | None = None
    server: str | None = None
    #: Regular names of actions; empty: all.
    actions: tuple[str, ...] = ()
    #: A text that the request's body must contain.
    holding: str = ""
    #: How many more it hits; None: all.
    left: int | None = None
    #: How many it has hit.
    hits: int = 0

    def takes(self, passage: Passage) -> bool:
        """Whether the rule applies to a request; count it then."""
        fits = (
            self.left != 0
            and self.client in (None, passage.client)
            and self.server in (None, passage.server)
            and (not self.actions or passage.action in self.actions)
            and (not self.holding or self.holding in passage.text)
        )
        if fits:
            self.hits += 1
            self.left = None if self.left is None else self.left - 1
        return fits


class Wire:
    """The proxy. Rules come and go while it runs; the first one that matches a request applies."""

    def __init__(self, servers: Mapping[str, str]) -> None:
        """``servers``: URLs by name."""
        self._servers = {
            name: (urlsplit(url).hostname or "", urlsplit(url).port or 80) for name, url in servers.items()
        }
        self._rules: list[Rule] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="wire", daemon=True)
        self._listening: list[asyncio.Server] = []
        #: The loop itself holds its tasks weakly.
        self._serving: set[asyncio.Task[Any] | None] = set()

    def open(self, client: str) -> dict[str, str]:
        """Listen for one kind of process; return the URLs at which it reaches each server."""
        return asyncio.run_coroutine_threadsafe(self._open(client), self._loop).result(10)

    @contextlib.contextmanager
    def rule(
        self,
        script: Script,
        *actions: str,
        client: str | None = None,
        server: str | None = None,
        holding: str = "",
        times: int | None = None,
    ) -> Iterator[Rule]:
        """Apply a script while the block runs. Fail if no request matched: nothing was tested then."""
        rule = Rule(script=script, actions=actions, client=client, server=server, holding=holding, left=times)
        self._rules.append(rule)
        try:
            yield rule
        finally:
            self._rules.remove(rule)
        assert rule.hits, f"no {' or '.join(actions) or 'request'} of {client or 'anybody'} came by"

    @contextlib.contextmanager
    def slow(self, client: str, seconds: float) -> Iterator[Rule]:
        """Delay every request of a kind of process while the block runs."""

        async def late(passage: Passage) -> Answer | None:
            await asyncio.sleep(seconds)
            return await passage.forward()

        with self.rule(late, client=client) as rule:
            yield rule

    @contextlib.contextmanager
    def running(self) -> Iterator["Wire"]:
        """Run while the block runs."""
        self._thread.start()
        try:
            yield self
        finally:
            asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    async def _open(self, client: str) -> dict[str, str]:
        urls = {}
        for name in self._servers:
            listening = await asyncio.start_server(
                partial(self._serve, client, name), "127.0.0.1", 0, backlog=512
            )
            self._listening.append(listening)
            urls[name] = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        return urls

    async def _close(self) -> None:
        for listening in self._listening:
            listening.close()
        serving = [task for task in self._serving if task]
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)

    async def _serve(
        self, client: str, server: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        requests, upstream = Stream(keep_bodies=True), _Upstream(self._servers[server])
        self._serving.add(asyncio.current_task())
        try:
            while data := await reader.read(1 << 16):
                for request in requests.feed(data):
                    answer = await self._answer(Passage(client, server, request, upstream))
                    if answer is None:
                        return
                    writer.write(_encoded(answer))
                    await writer.drain()
        except (OSError, EOFError, asyncio.CancelledError):
            pass  # either end is gone: so is the other
        finally:
            # Cut, not closed: what a process sees when the other end dies.
            writer.transport.abort()
            upstream.close()
            self._serving.discard(asyncio.current_task())

    async def _answer(self, passage: Passage) -> Answer | None:
        for rule in self._rules:
            if rule.takes(passage):
                return await rule.script(passage)
        return await passage.forward()


class _Upstream:
    """A connection to a server, made when first used."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self._writer: asyncio.StreamWriter | None = None
        self._answers = Stream(keep_bodies=True)

    async def ask(self, request: Message, body: bytes) -> Answer:
        if self._writer is None:
            self._reader, self._writer = await asyncio.open_connection(*self._address)
        headers = {name: text for name, text in request.headers.items() if name not in _OF_THE_BODY}
        self._writer.write(_message(request.first_line, headers, body))
        await self._writer.drain()
        while True:
            data = await self._reader.read(1 << 16)
            if not data:
                raise EOFError
            for answer in self._answers.feed(data):
                status = int(answer.first_line.split()[1])
                return Answer(status=status, body=answer.body, headers=answer.headers)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.transport.abort()


def _encoded(answer: Answer) -> bytes:
    headers = {name: text for name, text in answer.headers.items() if name not in _OF_THE_BODY}
    return _message(f"HTTP/1.1 {answer.status} -", headers, answer.body)


def _message(first_line: str, headers: Mapping[str, str], body: bytes) -> bytes:
    lines = [
        first_line,
        *(f"{name}: {text}" for name, text in headers.items()),
        f"content-length: {len(body)}",
    ]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body
