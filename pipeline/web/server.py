"""The server of ``pipeline web``: health, and the jobs page on the same port."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from fastapi import FastAPI

from config.settings import Settings
from pipeline.health.probe import Probe
from pipeline.health.server import WebServer
from pipeline.registry import Registry
from pipeline.web.api import PREFIX, make_api
from pipeline.web.pages import add_pages
from pipeline.web.site import Site


@contextmanager
def jobs_server(settings: Settings, registry: Registry, host: str, port: int) -> Iterator[WebServer]:
    """A server, not started, with all that its pages need while the block runs."""
    sites: list[Site] = []

    def extend(app: FastAPI, probes: Mapping[str, Probe]) -> None:
        sites.append(Site.make(settings, registry, probes))
        app.mount(PREFIX, make_api(sites[0]))
        add_pages(app, sites[0])

    server = WebServer(settings, registry, host, port, extend)
    sites[0].start()
    try:
        yield server
    finally:
        sites[0].close()
