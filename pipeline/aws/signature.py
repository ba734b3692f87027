"""Signatures, Version 4, of POST requests to the root of one host.

Source: "Create a signed AWS API request" in the IAM user guide. Tests compare with botocore's own signer.
"""

import hashlib
import hmac
import time
from collections.abc import Mapping

from botocore.credentials import Credentials

_ALGORITHM = "AWS4-HMAC-SHA256"


class Signer:
    """A signer with the credentials as they are at each request: botocore refreshes them then.

    Threads may share it.
    """

    def __init__(self, credentials: Credentials, *, service: str, region: str, host: str) -> None:
        self._credentials = credentials
        self._scope = f"{region}/{service}/aws4_request"
        self._host = host
        #: The key of a day, and what it was made of.
        self._key: tuple[tuple[str, str], bytes] = (("", ""), b"")

    def signed(self, headers: Mapping[str, str], body: bytes) -> dict[str, str]:
        """Return ``headers`` (names in lower case) with those that sign them and the body.

        Raises botocore's errors of credentials that cannot be refreshed.
        """
        credentials = self._credentials.get_frozen_credentials()
        moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(time.time()))
        signed = {**headers, "host": self._host, "x-amz-date": moment}
        if credentials.token:
            signed["x-amz-security-token"] = credentials.token
        lines = "".join([f"{name}:{signed[name]}\n" for name in sorted(signed)])
        names = ";".join(sorted(signed))
        canonical = f"POST\n/\n\n{lines}\n{names}\n{hashlib.sha256(body).hexdigest()}"
        scope = f"{moment[:8]}/{self._scope}"
        text = f"{_ALGORITHM}\n{moment}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
        signature = hmac.digest(
            self._key_of(credentials.secret_key or "", moment[:8]), text.encode(), "sha256"
        ).hex()
        signed["authorization"] = (
            f"{_ALGORITHM} Credential={credentials.access_key}/{scope}, "
            f"SignedHeaders={names}, Signature={signature}"
        )
        return signed

    def _key_of(self, secret: str, date: str) -> bytes:
        made_of, key = self._key
        if made_of != (secret, date):
            key = f"AWS4{secret}".encode()
            for part in (date, *self._scope.split("/")):
                key = hmac.digest(key, part.encode(), "sha256")
            self._key = (secret, date), key
        return key
