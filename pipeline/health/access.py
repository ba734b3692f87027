"""Who may see more than health: whoever has WEB_TOKEN; without one, this machine only."""

import hmac
from collections.abc import Callable
from urllib.parse import urlsplit

from fastapi import HTTPException, Request

from config.settings import Settings

LOOPBACK = ("127.0.0.1", "::1", "::ffff:127.0.0.1")

#: What this machine calls itself. Another name that leads here is another site's, in a browser on this
#: machine; what gives no name is no browser.
LOCAL_NAMES = ("localhost", "127.0.0.1", "::1", None)


def guard(settings: Settings) -> Callable[[Request], None]:
    """A FastAPI dependency that refuses whoever may not.

    With a token, ``Authorization: Bearer <token>`` is asked of everybody.
    """
    token = settings.web_token

    def check(request: Request) -> None:
        if token is None:
            if not is_local(request):
                raise HTTPException(403, "Set WEB_TOKEN to let other machines ask.")
            return
        given = request.headers.get("authorization", "")
        wanted = f"Bearer {token.get_secret_value()}"
        if not hmac.compare_digest(given.encode(), wanted.encode()):
            raise HTTPException(
                401, "Give WEB_TOKEN as a bearer token.", headers={"WWW-Authenticate": "Bearer"}
            )

    return check


def is_local(request: Request) -> bool:
    """Whether it comes from this machine, and asks it by a name of its own (DNS rebinding does not)."""
    try:
        name = urlsplit(f"//{request.headers.get('host', '')}").hostname
    except ValueError:
        return False
    return request.client is not None and request.client.host in LOOPBACK and name in LOCAL_NAMES
