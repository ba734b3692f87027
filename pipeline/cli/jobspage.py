"""The jobs page as commands start it: its server, and the address with which a person here may act."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from config.settings import Settings
from pipeline.errors import ConfigurationError
from pipeline.registry import Registry

if TYPE_CHECKING:
    # Needs what is not there without the extra "web".
    from pipeline.health.server import WebServer


def new_token() -> str:
    """A WEB_TOKEN for as long as a command runs."""
    return secrets.token_urlsafe(12)


def address(port: int, token: str) -> str:
    """What a browser on this machine opens; it gives the token as a password from then on."""
    return f"http://me:{token}@127.0.0.1:{port}"


@contextmanager
def jobs_page(settings: Settings, registry: Registry, host: str, port: int) -> "Iterator[WebServer]":
    """The server, not started, while the block runs; says how to install what it needs."""
    try:
        from pipeline.web.server import jobs_server
    except ImportError as error:
        raise ConfigurationError(f"{error}. Install it: pip install 'pipeline[web]'.") from error
    with jobs_server(settings, registry, host, port) as server:
        yield server
