"""The server of ``pipeline web``: health endpoints, jobs page and API on one port."""

from collections.abc import Iterator
from contextlib import contextmanager

from fastapi import FastAPI

from pipeline.author.registry import Registry
from pipeline.errors import ConfigurationError
from pipeline.observe.connections import Connection
from pipeline.observe.probe import Probes
from pipeline.observe.server import WebServer
from pipeline.settings import Settings, token_fault
from pipeline.web.api import PREFIX, make_api
from pipeline.web.pages import add_pages
from pipeline.web.site import Site


class PageConnection(Connection):
    """A connection of the jobs page: many browsers, each with an event stream."""

    limit = 512


@contextmanager
def jobs_server(settings: Settings, registry: Registry, host: str, port: int) -> Iterator[WebServer]:
    """Give a server, not started, whose pages work while the block runs.

    Raises ConfigurationError for a WEB_TOKEN that others could guess.
    """
    if fault := token_fault(settings, host):
        raise ConfigurationError(f"{fault}.")
    sites: list[Site] = []

    def extend(app: FastAPI, probes: Probes) -> None:
        sites.append(Site.make(settings, registry, probes))
        app.mount(PREFIX, make_api(sites[0]))
        add_pages(app, sites[0])

    server = WebServer(settings, registry, host, port, extend, connection=PageConnection)
    sites[0].start()
    try:
        yield server
    finally:
        sites[0].close()
