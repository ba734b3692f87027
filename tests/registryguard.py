"""A guard before a schema registry: TLS with an authority of its own, and what a client must bring."""

import contextlib
import http.client
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

HOST = "127.0.0.1"

_REFUSED = json.dumps({"error_code": 401, "message": "Unauthorized"}).encode()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that is not let in."""


@contextlib.contextmanager
def guard(
    upstream: str,
    certificate: Path,
    *,
    admits: Callable[[str], bool] = lambda _: True,
    clients: Path | None = None,
) -> Iterator[str]:
    """Guard the registry at ``upstream`` while the block runs; yield its URL behind the guard.

    ``certificate``: with its key, in PEM. ``admits``: whether the value of a request's Authorization, empty
    without one, is good. ``clients``: the authority of the certificates that clients must have.
    """
    target = urlsplit(upstream)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if not admits(self.headers.get("Authorization") or ""):
                self._answer(401, _REFUSED)
                return
            headers = {name: self.headers[name] for name in ("Accept", "Content-Type") if self.headers[name]}
            with contextlib.closing(http.client.HTTPConnection(target.netloc, timeout=60)) as connection:
                connection.request(self.command, self.path, data, headers)
                answer = connection.getresponse()
                self._answer(answer.status, answer.read())

        do_POST = do_GET  # noqa: N815 - as the base class calls it

        def _answer(self, status: int, data: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    if clients:
        context.load_verify_locations(clients)
        context.verify_mode = ssl.CERT_REQUIRED
    with _Server((HOST, 0), Handler) as server:
        # The thread of a connection shakes hands, at its first read.
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield f"https://{HOST}:{server.server_port}{target.path}"
        finally:
            server.shutdown()
            thread.join()
