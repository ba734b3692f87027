"""Access to the jobs page and its API: WEB_TOKEN allows reading and acting.

With WEB_TOKEN set, every request needs it. Without it, requests from this machine may read, and nothing may
act.

A browser also sends the password with requests that another site makes it send, so an action from another
site is refused: by ``Sec-Fetch-Site``, which every current browser sends to https and to localhost and no
script can set, else by ``Origin``, which must equal ``Host``. A client that sends neither is not a browser.
(The rule of Go's http.CrossOriginProtection.) A read is refused if another site embeds it, as an image for
example: a look at dead letters hides them from others for a moment. A link from another site is followed.
(The Fetch Metadata resource isolation policy, https://web.dev/articles/fetch-metadata.)
"""

import time
from collections import OrderedDict

import structlog
from fastapi import HTTPException, Request

from pipeline.observe.guard import PATH_SHOWN, Actor, Guard
from pipeline.settings import Settings

log = structlog.get_logger(__name__)

#: Seconds in which one reader's reads of one path are one line of the audit log: pages fetch themselves.
READ_LOGGED_EVERY = 60.0

#: Readers and paths that are remembered for that.
READS_KEPT = 10_000

#: Values of ``Sec-Fetch-Site`` with which another site caused a request.
OTHER_SITES = ("cross-site", "same-site")


class Access:
    """Two FastAPI dependencies: ``look`` for reads, ``act`` for actions. Both write the audit log."""

    def __init__(self, settings: Settings) -> None:
        self._guard = Guard(settings)
        self._has_token = settings.web_token is not None
        self._read_only = settings.web_read_only
        self._reads: OrderedDict[tuple[str, str, str], float] = OrderedDict()

    @property
    def may_act(self) -> bool:
        """Whether actions are possible at all; pages leave out their buttons otherwise."""
        return self._has_token and not self._read_only

    async def look(self, request: Request) -> Actor:
        """Allow a read, and log it: 401 or 403 as ``Guard`` refuses, 403 for what another site embeds."""
        actor = await self._guard.admit(request)
        if _is_embedded_elsewhere(request):
            raise HTTPException(403, "Refused: another site embeds this.")
        if request.method == "GET":
            self._log_read(actor, request.url.path[:PATH_SHOWN])
        return actor

    async def act(self, request: Request) -> Actor:
        """Allow an action: 403 when actions are off, and for a request that another site caused."""
        actor = await self._guard.admit(request)
        if self._read_only:
            raise HTTPException(403, "WEB_READ_ONLY is true, so actions are off.")
        if not self._has_token:
            raise HTTPException(403, "WEB_TOKEN is not set, so actions are off. Set it to allow them.")
        if not _is_same_origin(request):
            raise HTTPException(403, "Refused: the request comes from another site.")
        return actor

    def _log_read(self, actor: Actor, path: str) -> None:
        key, now = (actor.name, actor.host, path), time.monotonic()
        if now - self._reads.get(key, float("-inf")) < READ_LOGGED_EVERY:
            return
        self._reads[key] = now
        self._reads.move_to_end(key)
        if len(self._reads) > READS_KEPT:
            self._reads.popitem(last=False)
        log.info("web.read", path=path, by=actor.name, host=actor.host)


def log_action(actor: Actor, action: str, **fields: object) -> None:
    """Log an action before it runs, so that an interrupted one is logged too."""
    log.info("web.action", action=action, by=actor.name, host=actor.host, **fields)


def _is_same_origin(request: Request) -> bool:
    if request.headers.get("authorization", "").lower().startswith("bearer "):
        # No browser sends a bearer token by itself.
        return True
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site in ("same-origin", "none")
    origin = request.headers.get("origin")
    return origin is None or origin.partition("://")[2] == request.headers.get("host")


def _is_embedded_elsewhere(request: Request) -> bool:
    """Whether a page of another site loads this into itself, instead of leading a person to it."""
    return request.headers.get("sec-fetch-site") in OTHER_SITES and (
        request.headers.get("sec-fetch-mode"),
        request.headers.get("sec-fetch-dest"),
    ) != ("navigate", "document")
