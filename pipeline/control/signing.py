"""Signatures of commands: with ``CONTROL_KEY``, writing to the commands topic does not command a worker."""

import hashlib
import hmac
import json
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, Self

from pipeline.control.controlmessage import CLOCKS_DIFFER, REVOKES, REVOKES_LAST, Payload
from pipeline.settings import Settings

#: Headers of a signed command: when it was signed (seconds since 1970), and its HMAC-SHA256 (hexadecimal).
SIGNED_AT: Final = "signed_at"
SIGNATURE: Final = "signature"

#: How long a signature is believed (seconds). So long it is remembered, and a copy of its record refused.
LASTS: Final = 60.0


class Signer:
    """Signs the commands of one service."""

    def __init__(self, key: str, service: str) -> None:
        self._key = key.encode()
        self._service = service

    @classmethod
    def of(cls, settings: Settings) -> Self | None:
        """Return the signer of a service; None without ``CONTROL_KEY``."""
        key = settings.control_key
        return cls(key.get_secret_value(), settings.service_name) if key else None

    def sign(self, payload: Payload) -> None:
        """Add the signature to the headers of a command, as kombu publishes it."""
        signed_at = time.time()
        tag = payload["properties"]["delivery_tag"]
        signature = self.signature(payload["body"], tag, signed_at)
        payload["headers"] |= {SIGNED_AT: signed_at, SIGNATURE: signature}

    def signature(self, body: str, tag: str, signed_at: float) -> str:
        """Return the signature of a command. Its delivery tag keeps two equal commands apart."""
        text = json.dumps([self._service, signed_at, tag, body])
        return hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()


class Verifier:
    """Says why a command is not believed. Remembers signatures, so that a copy of a record has no effect."""

    def __init__(self, signer: Signer, clock: Callable[[], float] = time.time) -> None:
        self._signer = signer
        self._clock = clock
        #: when each was signed
        self._seen: dict[str, float] = {}

    def fault(self, method: str, body: str, tag: str, headers: Mapping[str, Any]) -> str | None:
        """Return why a command must not be obeyed; None for a signed one that is new."""
        signature, signed_at = headers.get(SIGNATURE), headers.get(SIGNED_AT)
        if not isinstance(signature, str) or not isinstance(signed_at, float):
            return "it is not signed: set CONTROL_KEY where it is sent, as at this worker"
        if not hmac.compare_digest(signature.encode(), self._signer.signature(body, tag, signed_at).encode()):
            return "its signature is not that of this worker's CONTROL_KEY"
        # A revoke may be read again, by a worker that starts later, and has the same effect.
        lasts = REVOKES_LAST if method in REVOKES else LASTS
        now = self._clock()
        if not -CLOCKS_DIFFER < now - signed_at < lasts + CLOCKS_DIFFER:
            return f"it was signed {now - signed_at:.0f} s ago: compare the clocks of the two machines"
        if method not in REVOKES:
            if signature in self._seen:
                return "it is the copy of a command"
            self._remember(signature, signed_at, now)
        return None

    def _remember(self, signature: str, signed_at: float, now: float) -> None:
        oldest = now - LASTS - CLOCKS_DIFFER
        self._seen = {each: moment for each, moment in self._seen.items() if moment > oldest}
        self._seen[signature] = signed_at
