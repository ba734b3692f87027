"""The guard of the HTTP servers: WEB_TOKEN, and this machine where no token is set."""

import asyncio
import base64
import hmac
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

import structlog
from fastapi import HTTPException, Request

from pipeline.loopback import is_loopback
from pipeline.settings import Settings

log = structlog.get_logger(__name__)

#: Makes a refused browser ask for a user name and password.
CHALLENGE: Final = {"WWW-Authenticate": 'Basic realm="pipeline", charset="UTF-8"'}

#: Seconds after which a wrong token is answered.
WRONG_DELAY = 1.0

#: Characters of a path and of a name in the log.
PATH_SHOWN, NAME_SHOWN = 200, 100


@dataclass(frozen=True, kw_only=True)
class Actor:
    """The sender of a request."""

    #: The user name, or the authorization scheme without one.
    name: str
    #: Its address, or that of the proxy in front.
    host: str


class Guard:
    """Admits requests with WEB_TOKEN, as a bearer token or as the password of any user name.

    If no token is set, it admits requests from this machine.
    """

    def __init__(self, settings: Settings) -> None:
        self._token = settings.web_token

    async def admit(self, request: Request) -> Actor:
        """Return who sent a request; 401 without the token, 403 from another machine if none is set.

        A wrong token is logged and answered late. The name beside it is not logged: it may be a password.
        """
        host = request.client.host if request.client else ""
        if self._token is None:
            if not is_local(request):
                raise HTTPException(
                    403, "WEB_TOKEN is not set, so only this machine may read. Set it to allow others."
                )
            return Actor(name="local", host=host)
        name, given = _credentials(request.headers.get("authorization", ""))
        if given and hmac.compare_digest(given.encode(), self._token.get_secret_value().encode()):
            return Actor(name=name, host=host)
        if given:
            log.warning("web.token_wrong", host=host, path=request.url.path[:PATH_SHOWN])
            await asyncio.sleep(WRONG_DELAY)
        raise HTTPException(
            401, "Give WEB_TOKEN: as a bearer token, or as the password of any user name.", CHALLENGE
        )

    async def admits(self, request: Request) -> bool:
        """Whether the sender may see more than a status; a wrong token is refused, as in ``admit``."""
        if self._token is None:
            return is_local(request)
        return "authorization" in request.headers and bool(await self.admit(request))


def is_local(request: Request) -> bool:
    """Whether a request comes from this machine and names it as such.

    Another name may come from DNS rebinding in a browser on this machine; a client that sends no ``Host`` is
    no browser.
    """
    try:
        name = urlsplit(f"//{request.headers.get('host', '')}").hostname
    except ValueError:
        return False
    named = name is None or is_loopback(name)
    return named and request.client is not None and is_loopback(request.client.host)


def _credentials(header: str) -> tuple[str, str]:
    """Return the name and the token of an ``Authorization`` header; empty without one."""
    scheme, _, value = header.partition(" ")
    if scheme.lower() == "bearer":
        return "bearer", value.strip()
    if scheme.lower() != "basic":
        return "", ""
    try:
        name, _, password = base64.b64decode(value.strip(), validate=True).decode().partition(":")
    except ValueError:
        return "", ""
    return name[:NAME_SHOWN] or "basic", password
