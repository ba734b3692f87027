"""One HTTP server: a command of its own, or a daemon thread of a bridge or a worker."""

import os
import socket
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence

import uvicorn
from fastapi import FastAPI

from config.settings import Settings
from pipeline.errors import ConfigurationError
from pipeline.health.health import health_router, make_probes
from pipeline.health.metrics import metrics_router
from pipeline.health.probe import Probe
from pipeline.registry import Registry

#: Seconds that requests under way get when the server ends.
GRACE = 2


class _Server(uvicorn.Server):
    """Ends what would hold connections open before it waits for them: it would cut them off with an error."""

    def __init__(self, config: uvicorn.Config, endings: Sequence[Callable[[], None]]) -> None:
        super().__init__(config)
        self._endings = endings

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """On the event loop, once it was asked to end."""
        for end in self._endings:
            end()
        await super().shutdown(sockets)


class WebServer:
    """One HTTP server. The port is taken when the object is made."""

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        host: str,
        port: int,
        extend: Callable[[FastAPI, Mapping[str, Probe]], None] | None = None,
        stuck: Callable[[], str | None] = lambda: None,
    ) -> None:
        """``extend`` adds what a process serves beside health and metrics; it may use their probes.

        What it appends to the application's ``state.endings`` is called, on the event loop, when it ends.
        ``stuck`` as for ``health_router``.
        """
        self._socket = _listen(host, port)
        self.port: int = self._socket.getsockname()[1]
        self.url = f"http://{host}:{self.port}"
        app = FastAPI(title=settings.service_name, docs_url=None, redoc_url=None, openapi_url=None)
        app.state.endings = []
        probes = make_probes(settings, registry)
        app.include_router(health_router(settings, probes, stuck))
        app.include_router(metrics_router(settings, probes))
        if extend is not None:
            extend(app, probes)
        # Its logs go where this process's logs go; a line for each probe would drown them.
        config = uvicorn.Config(
            app,
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            # Who may ask, and what the audit says, goes by where a connection comes from: a client writes
            # X-Forwarded-For as it likes.
            proxy_headers=False,
            timeout_graceful_shutdown=GRACE,
        )
        self._server = _Server(config, app.state.endings)
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
        """End the thread."""
        self._server.should_exit = True
        if self._thread.is_alive():
            self._thread.join(GRACE + 1)

    def forget(self) -> None:
        """In a forked child: the port is the parent's."""
        self._socket.close()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        raise ConfigurationError(
            f"Could not listen on {host} port {port}: {_reason(error)}. Choose another port."
        ) from error


def _reason(error: OSError) -> str:
    """Without the address that asyncio's and socket's own messages repeat."""
    return os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)


_servers: "weakref.WeakSet[WebServer]" = weakref.WeakSet()


def _forget_servers() -> None:
    for server in list(_servers):
        server.forget()


os.register_at_fork(after_in_child=_forget_servers)
