"""``pipeline web``: the jobs page and the health endpoints, as a process of their own."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from pipeline.author.registry import Registry
from pipeline.cli.output import echo
from pipeline.cli.service import read_settings, read_stages
from pipeline.errors import ConfigurationError
from pipeline.settings import Settings
from pipeline.telemetry.logs import log_to_stderr

if TYPE_CHECKING:
    # Needs packages of the extra "web".
    from pipeline.observe.server import WebServer


@click.command(
    short_help="Serve the jobs page and the health endpoints.",
    epilog="""\b
Examples:
  pipeline web
  pipeline web --host 0.0.0.0 --port 8080
  curl -f http://127.0.0.1:8080/health

Bridge and worker serve the health endpoints themselves when HEALTH_PORT is set.""",
)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="Port to listen on."
)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on; 0.0.0.0 (or ::) accepts other machines.",
)
def web(port: int, host: str) -> None:
    """Serve the jobs page, and /health, /kafka/health, /sqs/health, /live and /ready, until Ctrl-C.

    Without WEB_TOKEN the page is read-only and serves this machine alone. docs/guides/jobs-page.md.
    """
    settings = read_settings()
    log_to_stderr(settings.log_level)
    with jobs_page(settings, read_stages(settings), host, port) as server:
        echo(f"Serving {server.url}", err=True)
        server.run()


def new_token() -> str:
    """Return a WEB_TOKEN for one run of a command."""
    return secrets.token_urlsafe(12)


def address(port: int, token: str) -> str:
    """Return the address for a browser on this machine; it holds the token as a password."""
    return f"http://me:{token}@127.0.0.1:{port}"


@contextmanager
def jobs_page(settings: Settings, registry: Registry, host: str, port: int) -> "Iterator[WebServer]":
    """Give the server, not started, for the block; the error for a missing package names the extra."""
    try:
        from pipeline.web.server import jobs_server
    except ImportError as error:
        raise ConfigurationError(f"{error}. Install it: pip install 'celery-stages[web]'.") from error
    with jobs_server(settings, registry, host, port) as server:
        yield server
