"""The pages of jobs, stages, queues and dead letters, as a browser shows them."""

from fastapi import FastAPI, Request
from fastapi.exception_handlers import http_exception_handler
from fastapi.responses import Response
from starlette.exceptions import HTTPException as StarletteHTTPException

from pipeline.errors import ServiceError
from pipeline.web.pages.deadletters import letters_router
from pipeline.web.pages.frame import Pages, Static
from pipeline.web.pages.jobs import jobs_router
from pipeline.web.pages.overview import overview_router
from pipeline.web.pages.submitting import submit_router
from pipeline.web.site import Site

_TITLES = {401: "Who are you?", 403: "Not allowed", 404: "There is no such page", 503: "Not now"}


def add_pages(app: FastAPI, site: Site) -> None:
    """Serve the pages at ``/``, and what goes wrong as a page to those who asked for one."""
    pages = Pages(site.settings, site.access)
    app.mount("/static", Static())
    app.include_router(overview_router(site, pages, app.state.endings), include_in_schema=False)
    for make in (jobs_router, letters_router, submit_router):
        app.include_router(make(site, pages), include_in_schema=False)

    @app.exception_handler(StarletteHTTPException)
    async def refused(request: Request, error: StarletteHTTPException) -> Response:
        if not _wants_page(request):
            return await http_exception_handler(request, error)
        title = _TITLES.get(error.status_code, "This cannot be shown")
        return pages.error(error.status_code, title, str(error.detail), error.headers)

    if ServiceError not in app.exception_handlers:

        @app.exception_handler(ServiceError)
        async def away(_: Request, error: ServiceError) -> Response:
            return pages.error(503, "A service does not answer", str(error))

    @app.exception_handler(Exception)
    async def broken(_: Request, error: Exception) -> Response:
        # The server logs it, with its traceback.
        return pages.error(500, "This page is broken", f"{type(error).__name__}: the log has more.")


def _wants_page(request: Request) -> bool:
    """Whether a person's browser asks, not a program."""
    return "text/html" in request.headers.get("accept", "")
