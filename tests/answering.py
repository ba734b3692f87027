"""A server of AWS's JSON protocol that gives scripted answers and keeps what it was asked."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.http import Stream


@dataclass(frozen=True, kw_only=True)
class Reply:
    """One answer."""

    status: int = 200
    body: bytes = b"{}"
    headers: dict[str, str] = field(default_factory=dict)
    #: Send only so many bytes, then end the connection.
    cut_at: int | None = None
    #: Seconds until it is sent.
    delay: float = 0
    #: Send nothing, and keep the connection.
    silent: bool = False

    def encoded(self) -> bytes:
        """Return the bytes to send."""
        headers = {"Content-Length": str(len(self.body)), **self.headers}
        lines = [f"HTTP/1.1 {self.status} -", *(f"{name}: {text}" for name, text in headers.items())]
        return ("\r\n".join(lines) + "\r\n\r\n").encode() + self.body


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One request."""

    headers: dict[str, str]
    body: bytes


class AnsweringServer:
    """Answers requests in the order of ``script``; the last reply answers all that follow."""

    def __init__(self, script: Sequence[Reply], tls: ssl.SSLContext | None = None) -> None:
        """``tls``: speak https."""
        self._tls = tls
        self._script = list(script)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self._lock = threading.Lock()
        self.asked: list[Asked] = []
        #: Answer each request with its own body.
        self.echo = False
        #: Connections so far.
        self.connections = 0
        scheme = "https" if tls else "http"
        self.url = f"{scheme}://127.0.0.1:{self._listening.getsockname()[1]}"
        self._thread = threading.Thread(target=self._accept)

    @contextlib.contextmanager
    def running(self) -> Iterator["AnsweringServer"]:
        """Serve while the block runs."""
        self._thread.start()
        try:
            yield self
        finally:
            self._listening.shutdown(socket.SHUT_RDWR)
            self._listening.close()
            self.end_connections()
            self._thread.join()

    def end_connections(self) -> None:
        """End every connection, as a server does with idle ones."""
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            self._open.clear()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listening.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                with self._lock:
                    self._open.append(connection)
                    self.connections += 1
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        requests = Stream(keep_bodies=True)
        with contextlib.suppress(OSError), self._secured(connection) as connection:
            while data := connection.recv(1 << 16):
                for request in requests.feed(data):
                    reply = self._reply(request)
                    if reply.silent:
                        continue
                    threading.Event().wait(reply.delay)
                    connection.sendall(reply.encoded()[: reply.cut_at])
                    if reply.cut_at is not None:
                        return

    def _secured(self, connection: socket.socket) -> socket.socket:
        return self._tls.wrap_socket(connection, server_side=True) if self._tls else connection

    def _reply(self, request: Any) -> Reply:
        with self._lock:
            self.asked.append(Asked(headers=dict(request.headers), body=request.body))
            if self.echo:
                return Reply(body=request.body)
            return self._script.pop(0) if len(self._script) > 1 else self._script[0]
