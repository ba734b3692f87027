"""An OpenID provider for tests: gives signed tokens for client credentials, over TLS, and can be away."""

import base64
import contextlib
import json
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

HOST = "127.0.0.1"
AUDIENCE = "kafka"


class Signer:
    """One key pair, and the tokens that it signs (RS256)."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)

    def jwks(self) -> str:
        """Return the public key as a JSON Web Key Set (RFC 7517)."""
        public = self._key.public_key().public_numbers()
        numbers = {"n": _number(public.n), "e": _number(public.e)}
        return json.dumps(
            {"keys": [{"kty": "RSA", "use": "sig", "alg": "RS256", "kid": self._name, **numbers}]}
        )

    def sign(self, claims: Mapping[str, object]) -> str:
        """Return the claims as a signed JSON Web Token (RFC 7519)."""
        parts = {"alg": "RS256", "typ": "JWT", "kid": self._name}, claims
        text = ".".join(_base64(json.dumps(part).encode()) for part in parts)
        signature = self._key.sign(text.encode(), padding.PKCS1v15(), hashes.SHA256())
        return f"{text}.{_base64(signature)}"

    def signed(self, token: str) -> bool:
        """Whether it is a token of this signer."""
        try:
            _, claims, _ = token.split(".")
            found = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))
        except ValueError:
            return False
        return token == self.sign(found)


@dataclass
class TokenServer:
    """The provider that runs: who may ask, and what was asked."""

    signer: Signer
    subject: str
    client_id: str
    client_secret: str
    #: Seconds that a token is good for.
    seconds: int = 300
    #: The status of every answer while the provider is ill; None: it is well.
    ill: int | None = None
    url: str = ""
    #: The form of each request that was answered with a token.
    asked: list[dict[str, list[str]]] = field(default_factory=list)
    #: How many requests were refused.
    refused: int = 0

    def answer(self, authorization: str, form: dict[str, list[str]]) -> tuple[int, dict[str, object]]:
        """Return status and body for a request (RFC 6749, 4.4 and 5.2)."""
        expected = base64.b64encode(f"{self.client_id}:{self.client_secret}".encode()).decode()
        if self.ill is not None:
            self.refused += 1
            return self.ill, {"error": "temporarily_unavailable"}
        if authorization != f"Basic {expected}" or form.get("grant_type") != ["client_credentials"]:
            self.refused += 1
            return 401, {"error": "invalid_client", "error_description": "unknown client or wrong secret"}
        self.asked.append(form)
        now = int(time.time())
        claims = {"sub": self.subject, "aud": AUDIENCE, "iat": now - 1, "exp": now + self.seconds}
        token = self.signer.sign(claims)
        return 200, {"access_token": token, "token_type": "Bearer", "expires_in": self.seconds}


@contextlib.contextmanager
def token_server(server: TokenServer, certificate: Path) -> Iterator[TokenServer]:
    """Serve it on a port of this machine while the block runs. ``certificate``: with its key, in PEM."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            form = parse_qs(self.rfile.read(length).decode())
            status, answer = server.answer(self.headers.get("Authorization") or "", form)
            body = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with ThreadingHTTPServer((HOST, 0), Handler) as http:
        http.socket = context.wrap_socket(http.socket, server_side=True)
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            server.url = f"https://{HOST}:{http.server_address[1]}/token"
            yield server
        finally:
            http.shutdown()
            thread.join()


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _number(value: int) -> str:
    return _base64(value.to_bytes((value.bit_length() + 7) // 8, "big"))
