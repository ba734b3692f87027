"""Health on ``HEALTH_PORT`` from inside a bridge or a worker, where that is set.

What keeps it from being served (a taken port, the extra ``web`` not installed) is logged, and costs the
endpoint, never the process: several workers of one machine may share an environment.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import structlog

from config.settings import Settings
from pipeline.errors import ConfigurationError
from pipeline.registry import Registry

if TYPE_CHECKING:
    from pipeline.health.server import WebServer

log = structlog.get_logger(__name__)


def health_server(
    settings: Settings, registry: Registry, stuck: Callable[[], str | None] = lambda: None
) -> "WebServer | None":
    """The server, not started; None where there is none to start. ``stuck`` as for ``health_router``."""
    if settings.health_port is None:
        return None
    try:
        # FastAPI takes half a second to import, and is an extra.
        from pipeline.health.server import WebServer

        server = WebServer(settings, registry, settings.health_host, settings.health_port, stuck=stuck)
    except ImportError as error:
        log.error("health.not_served", reason=f"{error}: pip install 'pipeline[web]'")
        return None
    except ConfigurationError as error:
        log.error("health.not_served", reason=str(error))
        return None
    log.info("health.served", url=server.url)
    return server


@contextlib.contextmanager
def serving_health(settings: Settings, registry: Registry) -> Iterator[None]:
    """Serve health while the block runs."""
    server = health_server(settings, registry)
    if server is None:
        yield
        return
    server.start()
    try:
        yield
    finally:
        server.stop()
