"""The HTTP server: run by ``pipeline web``, or on a daemon thread of a bridge or a worker."""

import asyncio
import os
import socket
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import uvicorn
from fastapi import FastAPI

from pipeline.author.registry import Registry
from pipeline.errors import ConfigurationError
from pipeline.observe.connections import Connection
from pipeline.observe.endpoints import health_router, metrics_router
from pipeline.observe.guard import Guard
from pipeline.observe.probe import Probes
from pipeline.settings import Settings

#: Seconds that open requests get when the server ends.
GRACE = 2

#: Connections that are accepted at a time, before a full server drops others for them; and those that may
#: wait for that in the kernel, where they cost no descriptor.
BACKLOG, QUEUE = 16, 512

#: Requests under way, also those whose client has gone; uvicorn answers 503 to more.
REQUESTS = 1_000


class Server(uvicorn.Server):
    """Ends open streams before it waits for connections, which it would otherwise cut off with an error."""

    def __init__(self, config: uvicorn.Config, endings: Sequence[Callable[[], None]]) -> None:
        super().__init__(config)
        self._endings = endings

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen. asyncio accepts as many connections at a time as it lets wait; here more may wait."""
        await super().startup(sockets)
        for each in sockets or []:
            each.listen(QUEUE)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the streams, then the server; runs on the event loop."""
        for end in self._endings:
            end()
        await super().shutdown(sockets)


class WebServer:
    """An HTTP server. The constructor binds its port."""

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        host: str,
        port: int,
        extend: Callable[[FastAPI, Probes], None] | None = None,
        stuck: Callable[[], str | None] = lambda: None,
        connection: type[Connection] = Connection,
    ) -> None:
        """``extend`` adds routes besides health and metrics; it may use their probes.

        Functions that it appends to the application's ``state.endings`` are called, on the event loop, when
        the server ends. ``stuck`` as for ``health_router``. ``connection`` says how many may be
        open.
        """
        self._socket = _listen(host, port)
        self.port: int = self._socket.getsockname()[1]
        self.url = f"http://{host}:{self.port}"
        probes = Probes.of(settings, registry)
        app = FastAPI(
            title=settings.service_name,
            docs_url=None,
            redoc_url=None,
            openapi_url=None,
            # A redirect to the same path with or without a slash would go to the ``Host`` that was sent.
            redirect_slashes=False,
            lifespan=_watching(probes),
        )
        app.state.endings = []
        guard = Guard(settings)
        app.include_router(health_router(settings, probes, guard, stuck))
        app.include_router(metrics_router(probes, guard))
        if extend is not None:
            extend(app, probes)
        # Log with the process's own handlers; no line for each request of a load balancer.
        config = uvicorn.Config(
            app,
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            # Access checks and the audit log use the address of the connection: X-Forwarded-For can be
            # forged by any client.
            proxy_headers=False,
            http=connection,
            ws="none",
            limit_concurrency=REQUESTS,
            backlog=BACKLOG,
            timeout_graceful_shutdown=GRACE,
        )
        self._server = Server(config, app.state.endings)
        self._thread = threading.Thread(target=self.run, name="web", daemon=True)
        _servers.add(self)

    def run(self) -> None:
        """Serve until ``stop``; in the main thread also until SIGINT or SIGTERM."""
        with self._socket:
            self._server.run(sockets=[self._socket])

    def start(self) -> None:
        """Serve on a daemon thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop serving and end the thread."""
        self._server.should_exit = True
        if self._thread.is_alive():
            self._thread.join(GRACE + 1)

    def forget(self) -> None:
        """Close the socket in a forked child: the port is the parent's."""
        self._socket.close()


def _watching(probes: Probes) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    """Return a lifespan in which the probes are watched."""

    @asynccontextmanager
    async def watch(_: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(probes.watch())
        try:
            yield
        finally:
            task.cancel()

    return watch


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=QUEUE)
    except OSError as error:
        raise ConfigurationError(
            f"Could not listen on {host} port {port}: {_reason(error)}. Choose another port."
        ) from error


def _reason(error: OSError) -> str:
    """Return the reason without the address, which the messages of asyncio and socket repeat."""
    return os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)


_servers: "weakref.WeakSet[WebServer]" = weakref.WeakSet()


def _forget_servers() -> None:
    for server in list(_servers):
        server.forget()


os.register_at_fork(after_in_child=_forget_servers)
