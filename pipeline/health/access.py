"""Who may see more than health: whoever has WEB_TOKEN; without one, this machine only."""

import hmac
from collections.abc import Callable

from fastapi import HTTPException, Request

from config.settings import Settings

LOOPBACK = ("127.0.0.1", "::1", "::ffff:127.0.0.1")


def guard(settings: Settings) -> Callable[[Request], None]:
    """A FastAPI dependency that refuses whoever may not.

    With a token, ``Authorization: Bearer <token>`` is asked of everybody.
    """
    token = settings.web_token

    def check(request: Request) -> None:
        if token is None:
            if request.client is None or request.client.host not in LOOPBACK:
                raise HTTPException(403, "Set WEB_TOKEN to let other machines ask.")
            return
        given = request.headers.get("authorization", "")
        wanted = f"Bearer {token.get_secret_value()}"
        if not hmac.compare_digest(given.encode(), wanted.encode()):
            raise HTTPException(
                401, "Give WEB_TOKEN as a bearer token.", headers={"WWW-Authenticate": "Bearer"}
            )

    return check
