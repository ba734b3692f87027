"""Health endpoints on ``HEALTH_PORT`` inside a bridge or a worker.

If they cannot be served (the port is taken, the extra ``web`` is not installed), an error is logged and the
process goes on without them: several workers of one machine may share an environment.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import structlog

from pipeline.author.registry import Registry
from pipeline.errors import ConfigurationError
from pipeline.settings import Settings

if TYPE_CHECKING:
    from pipeline.observe.server import WebServer

log = structlog.get_logger(__name__)


def health_server(
    settings: Settings, registry: Registry, stuck: Callable[[], str | None]
) -> "WebServer | None":
    """Return the server, not started; None if there is none. ``stuck`` as for ``health_router``."""
    if settings.health_port is None:
        return None
    try:
        # FastAPI takes half a second to import, and is an extra.
        from pipeline.observe.server import WebServer

        server = WebServer(settings, registry, settings.health_host, settings.health_port, stuck=stuck)
    except ImportError as error:
        log.error("health.not_served", reason=f"{error}: pip install 'celery-stages[web]'")
        return None
    except ConfigurationError as error:
        log.error("health.not_served", reason=str(error))
        return None
    log.info("health.served", url=server.url)
    return server


@contextlib.contextmanager
def serve_health(settings: Settings, registry: Registry, stuck: Callable[[], str | None]) -> Iterator[None]:
    """Serve health while the block runs. ``stuck`` as for ``health_router``."""
    server = health_server(settings, registry, stuck)
    if server is None:
        yield
        return
    server.start()
    try:
        yield
    finally:
        server.stop()
