"""The jobs page: jobs, stages, queues and dead letters in a browser."""

from fastapi import FastAPI, Request
from fastapi.exception_handlers import http_exception_handler
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException as StarletteHTTPException

from pipeline.errors import ServiceError
from pipeline.web.pages.deadletters import letters_router
from pipeline.web.pages.forms import forms_router
from pipeline.web.pages.frame import Pages, Static
from pipeline.web.pages.jobs import jobs_router
from pipeline.web.pages.overview import overview_router
from pipeline.web.pages.submit import SubmitPage
from pipeline.web.requests import faults
from pipeline.web.site import Site

_TITLES = {401: "Password needed", 403: "Not allowed", 404: "Page not found", 503: "Not available now"}


def add_pages(app: FastAPI, site: Site) -> None:
    """Serve the pages at ``/``; errors are pages for browsers."""
    pages = Pages(site.settings, site.access)
    submit = SubmitPage(site, pages)
    app.mount("/static", Static())
    for router in (
        overview_router(site, pages, app.state.endings),
        jobs_router(site, pages),
        letters_router(site, pages),
        submit.router,
        forms_router(site, pages, {"submit": submit.refused}),
    ):
        app.include_router(router, include_in_schema=False)

    @app.exception_handler(StarletteHTTPException)
    async def refused(request: Request, error: StarletteHTTPException) -> Response:
        if not _is_browser(request):
            return await http_exception_handler(request, error)
        title = _TITLES.get(error.status_code, "This page cannot be shown")
        return pages.error(error.status_code, title, str(error.detail), error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        return pages.error(422, "There is no such page", faults(error.errors()))

    if ServiceError not in app.exception_handlers:

        @app.exception_handler(ServiceError)
        async def unavailable(_: Request, error: ServiceError) -> Response:
            return pages.error(503, "A service does not answer", str(error))

    @app.exception_handler(Exception)
    async def broken(_: Request, error: Exception) -> Response:
        # The server logs it, with its traceback.
        return pages.error(500, "This page is broken", f"{type(error).__name__}: the log has more.")


def _is_browser(request: Request) -> bool:
    """Whether a person's browser asks, not a program."""
    return "text/html" in request.headers.get("accept", "")
