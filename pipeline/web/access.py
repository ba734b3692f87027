"""Who may look at jobs, and who may act: whoever has WEB_TOKEN.

With a token it is asked of everybody, as a bearer token or, in a browser, as the password of any user name.
Without one this machine may look, and nobody may act.

A browser sends a password along with whatever another site makes it send, so an action that comes from
another site is refused: by ``Sec-Fetch-Site``, which every current browser sends to https and to localhost
and no script can set, and where that is missing by ``Origin``, which must be the ``Host``. What sends neither
is no browser. (The rule of Go's http.CrossOriginProtection.)
"""

import base64
import hmac
from dataclasses import dataclass

import structlog
from fastapi import HTTPException, Request

from config.settings import Settings
from pipeline.health.access import is_local

log = structlog.get_logger(__name__)

#: What a browser that is refused asks its user for.
CHALLENGE = {"WWW-Authenticate": 'Basic realm="pipeline", charset="UTF-8"'}


@dataclass(frozen=True, kw_only=True)
class Actor:
    """Who asks."""

    #: The user name that was given; the scheme, where there is none.
    name: str
    #: The address it comes from: that of a proxy, where one is between.
    host: str


class Access:
    """Two FastAPI dependencies, ``look`` and ``act``."""

    def __init__(self, settings: Settings) -> None:
        self._token = settings.web_token
        self._read_only = settings.web_read_only

    @property
    def may_act(self) -> bool:
        """Whether anybody may act here; pages leave out their buttons where not."""
        return self._token is not None and not self._read_only

    def look(self, request: Request) -> Actor:
        """Refuse whoever may not look: 401 without the token, 403 on another machine where there is none."""
        host = request.client.host if request.client else ""
        if self._token is None:
            if not is_local(request):
                raise HTTPException(403, "Set WEB_TOKEN to let other machines look.")
            return Actor(name="local", host=host)
        name, given = _credentials(request.headers.get("authorization", ""))
        if not hmac.compare_digest(given.encode(), self._token.get_secret_value().encode()):
            raise HTTPException(
                401, "Give WEB_TOKEN: as a bearer token, or as the password of any user name.", CHALLENGE
            )
        return Actor(name=name, host=host)

    def act(self, request: Request) -> Actor:
        """Refuse whoever may not act: 403 where nobody may, and for what another site made a browser send."""
        actor = self.look(request)
        if self._read_only:
            raise HTTPException(403, "WEB_READ_ONLY is true: nothing is changed from here.")
        if self._token is None:
            raise HTTPException(403, "Set WEB_TOKEN: without one nothing is changed from here.")
        if not _is_same_origin(request):
            raise HTTPException(403, "Refused: another site made your browser send this.")
        return actor


def log_action(actor: Actor, action: str, **what: object) -> None:
    """Say in the log who did what: before it is done, so that what is cut off is told too."""
    log.info("web.action", action=action, by=actor.name, host=actor.host, **what)


def _credentials(header: str) -> tuple[str, str]:
    """A name and the token in an ``Authorization`` header; empty where it holds none."""
    scheme, _, value = header.partition(" ")
    if scheme.lower() == "bearer":
        return "bearer", value.strip()
    if scheme.lower() != "basic":
        return "", ""
    try:
        name, _, password = base64.b64decode(value.strip(), validate=True).decode().partition(":")
    except ValueError:
        return "", ""
    return name or "basic", password


def _is_same_origin(request: Request) -> bool:
    if request.headers.get("authorization", "").lower().startswith("bearer "):
        # No browser sends that by itself.
        return True
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site in ("same-origin", "none")
    origin = request.headers.get("origin")
    return origin is None or origin.partition("://")[2] == request.headers.get("host")
