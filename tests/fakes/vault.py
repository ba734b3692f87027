"""A server that speaks as much of Vault's HTTP API as this project uses, with tokens that really end.

After the public API documentation: auth/token, auth/approle, auth/kubernetes, KV version 2.
"""

import json
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ROOT = "root-token"
ROLE_ID, SECRET_ID = "role-7", "secret-id-of-role-7"
KUBERNETES_ROLE, POD_TOKEN = "pipeline", "the-pods-own-token"


class FakeVault:
    """State of the server; tests change it while it runs."""

    def __init__(self) -> None:
        #: Each secret's versions, the oldest first, by "mount/path".
        self.secrets: dict[str, list[dict[str, Any]]] = {}
        #: Seconds a login's token lives after each renewal, and in all.
        self.ttl, self.max_ttl = 3600.0, 86_400.0
        self.renewable = True
        self.sealed = False
        #: The status and the other server to which every request is redirected; None: it answers itself.
        self.redirect: tuple[int, str] | None = None
        #: "METHOD path" of each request, in order.
        self.requests: list[str] = []
        self.url = ""
        #: When each token ends, and when it ends for good; the root token never does.
        self._tokens: dict[str, tuple[float, float]] = {}

    def write(self, path: str, **values: Any) -> None:
        """A new version of a secret."""
        self.secrets.setdefault(path, []).append(values)

    def token(self) -> str:
        """A new token."""
        token = uuid.uuid4().hex
        self._tokens[token] = (time.monotonic() + self.ttl, time.monotonic() + self.max_ttl)
        return token

    def revoke_all(self) -> None:
        """End every token but the root's."""
        self._tokens.clear()

    def answer(self, method: str, path: str, token: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Status and body for a request."""
        self.requests.append(f"{method} {path}")
        if self.sealed:
            return 503, {"errors": ["Vault is sealed"]}
        if path == "/v1/auth/approle/login":
            return self._login(
                body == {"role_id": ROLE_ID, "secret_id": SECRET_ID}, "invalid role or secret ID"
            )
        if path == "/v1/auth/kubernetes/login":
            return self._login(body == {"role": KUBERNETES_ROLE, "jwt": POD_TOKEN}, "service account refused")
        left = self._left(token)
        if left is None:
            return 403, {"errors": ["permission denied"]}
        if path == "/v1/auth/token/lookup-self":
            endless = token == ROOT
            return 200, {"data": {"ttl": left, "renewable": self.renewable and not endless}}
        if path == "/v1/auth/token/renew-self":
            return self._renew(token)
        if path.startswith("/v1/") and "/data/" in path:
            return self._secret(path.removeprefix("/v1/").replace("/data/", "/", 1))
        return 404, {"errors": []}

    def _login(self, right: bool, reason: str) -> tuple[int, dict[str, Any]]:
        return (200, self._auth(self.token())) if right else (400, {"errors": [reason]})

    def _auth(self, token: str) -> dict[str, Any]:
        auth = {"client_token": token, "lease_duration": self._left(token), "renewable": self.renewable}
        return {"auth": auth}

    def _left(self, token: str) -> int | None:
        """Whole seconds a token has left; 0 for the root's; None for one that is none."""
        if token == ROOT:
            return 0
        left = self._tokens.get(token, (0.0, 0.0))[0] - time.monotonic()
        return None if left <= 0 else max(1, round(left))

    def _renew(self, token: str) -> tuple[int, dict[str, Any]]:
        last = self._tokens[token][1]
        self._tokens[token] = (min(time.monotonic() + self.ttl, last), last)
        return 200, self._auth(token)

    def _secret(self, path: str) -> tuple[int, dict[str, Any]]:
        if path not in self.secrets:
            return 404, {"errors": []}
        versions = self.secrets[path]
        return 200, {"data": {"data": versions[-1], "metadata": {"version": len(versions)}}}


@contextmanager
def fake_vault() -> Iterator[FakeVault]:
    """Serve a new one while the block runs."""
    vault = FakeVault()

    class Handler(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length) or b"{}") or {}
            path = self.path.partition("?")[0]
            status, answer = vault.answer(self.command, path, self.headers.get("X-Vault-Token", ""), body)
            data = json.dumps(answer).encode()
            if vault.redirect:
                status, other = vault.redirect
                self.send_response(status)
                self.send_header("Location", other + self.path)
            else:
                self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PUT = _serve  # noqa: N815 - named by http.server

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    vault.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield vault
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
