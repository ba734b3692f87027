"""What holds for every request of the API: a bounded body, and an answer that nobody keeps."""

from fastapi import HTTPException
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

#: Bytes of the largest body: an event has a MiB at most, and JSON may write it six times as long.
LARGEST = 8 * 1024 * 1024

_PRIVATE = {"cache-control": "no-store", "x-content-type-options": "nosniff"}


class Guarded:
    """An ASGI middleware. A body is read before anybody is asked for a token, so its size counts first."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        left = LARGEST

        async def receive_some() -> Message:
            nonlocal left
            message = await receive()
            left -= len(message.get("body", b""))
            if left < 0:
                raise HTTPException(413, f"A body may have {LARGEST:,} bytes.")
            return message

        async def send_private(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_PRIVATE)
            await send(message)

        await self._app(scope, receive_some, send_private)
