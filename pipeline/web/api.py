"""The API ``/api/v1``: the jobs page as JSON. ``/api/v1/openapi.json`` describes it."""

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from fastapi import Depends, FastAPI, HTTPException, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer
from pydantic import BaseModel
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipeline import __version__
from pipeline.deadletters import Filter, Place
from pipeline.errors import (
    InvalidEventError,
    InvalidInputError,
    MessageRefusedError,
    PipelineError,
    ServiceError,
)
from pipeline.jobs import JobState, PartPage
from pipeline.observe.guard import Actor
from pipeline.web.access import Access
from pipeline.web.actions import ACTIONS, Action, NotFoundError
from pipeline.web.model import JobDetail, JobFilter, JobList, LetterDetail, LetterList, PipelineView
from pipeline.web.requests import JobId, LetterId, Ordinal, StageName, faults
from pipeline.web.site import Site

PREFIX = "/api/v1"

#: Bytes of the largest body: an event has a MiB at most, and JSON may write it six times as long.
MAX_BODY = 8 * 1024 * 1024

T = TypeVar("T")

#: Seconds since 1970, within the range of a cursor.
Moment = Annotated[float, Query(ge=0, le=9_999_999_999, allow_inf_nan=False)]
Text = Annotated[str, Query(min_length=1, max_length=1_000)]
Cursor = Annotated[str, Query(pattern=r"^\d{10}\.\d{3}#[A-Za-z0-9._:-]{0,128}$")]


class Problem(BaseModel):
    """Why a request was not answered."""

    error: str


_PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "The body cannot be read."},
    401: {"model": Problem, "description": "The request has no valid WEB_TOKEN."},
    403: {"model": Problem, "description": "Reading or acting is not allowed from there."},
    413: {"model": Problem, "description": "The body is larger than any event."},
    422: {"model": Problem, "description": "The request is not as described here, or could only fail."},
    503: {"model": Problem, "description": "Kafka, SQS or DynamoDB does not answer. Try again."},
}
_NOT_FOUND: dict[int | str, dict[str, Any]] = {404: {"model": Problem, "description": "Not found."}}


def make_api(site: Site) -> FastAPI:
    """Return the application to mount at ``PREFIX``."""
    api = FastAPI(
        title=f"{site.settings.service_name}: jobs",
        version=__version__,
        description="Times are seconds since 1970.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        responses=_PROBLEMS,
        # For the description only: ``Admission`` has asked for the token by then.
        dependencies=[Depends(HTTPBearer(auto_error=False))],
    )
    api.add_middleware(Admission, access=site.access)
    api.add_middleware(BoundedBody)
    _handle_errors(api)
    _add_reads(api, site)
    for name, action in ACTIONS.items():
        _add_action(api, site, name, action)
    return api


# ─── Reads ───


def _add_reads(api: FastAPI, site: Site) -> None:
    @api.get("/pipeline")
    async def pipeline() -> PipelineView:
        """All stages with the topics and queues between them, now."""
        return await site.live.pipeline()

    @api.get("/jobs")
    async def jobs(
        state: JobState | None = None,
        entity_id: Text | None = None,
        stage: Text | None = None,
        text: Text | None = None,
        since: Moment | None = None,
        until: Moment | None = None,
        before: Cursor | None = None,
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
    ) -> JobList:
        """Jobs, newest submission first. Give ``next`` as ``before`` for older jobs."""
        wanted = JobFilter(state=state, entity_id=entity_id, stage=stage, text=text, since=since, until=until)
        return await site.live.jobs(wanted, before, limit)

    @api.get("/jobs/{job_id}", responses=_NOT_FOUND)
    async def job(job_id: JobId) -> JobDetail:
        """One job: its stages, and the first of its failures with traceback and data."""
        return _or_404(await site.live.job(job_id), f"There is no job {job_id}.")

    @api.get("/jobs/{job_id}/stages/{stage}/parts", responses=_NOT_FOUND)
    async def parts(
        job_id: JobId,
        stage: StageName,
        after: Ordinal | None = None,
        limit: Annotated[int, Query(ge=1, le=1_000)] = 100,
    ) -> PartPage:
        """The parts of a split stage, by ordinal. Give ``next`` as ``after`` for the next page."""
        page = await site.live.parts(job_id, stage, after, limit)
        return _or_404(page, f"Job {job_id} has no parts in {stage}, or not yet.")

    @api.get("/dead-letters")
    async def letters(
        stage: Text | None = None,
        job_id: Text | None = None,
        error: Text | None = None,
        since: Moment | None = None,
        before: Moment | None = None,
        place: Place | None = None,
    ) -> LetterList:
        """Dead letters, newest first: those that a search of a few seconds finds."""
        return await site.live.letters(
            Filter(stage=stage, job_id=job_id, error=error, since=since, before=before, place=place)
        )

    @api.get("/dead-letters/{letter_id}", responses=_NOT_FOUND)
    async def letter(letter_id: LetterId) -> LetterDetail:
        """One dead letter, by its id or that of its task: its data, headers and traceback."""
        return _or_404(await site.live.letter(letter_id), f"There is no dead letter {letter_id}.")


def _or_404(value: T | None, otherwise: str) -> T:
    if value is None:
        raise HTTPException(404, otherwise)
    return value


# ─── Actions ───


def _add_action(api: FastAPI, site: Site, name: str, action: Action[Any, Any]) -> None:
    async def perform(request: Any, actor: Annotated[Actor, Depends(site.access.act)]) -> Any:
        return await site.perform(action, request, actor)

    # As a dependency a model is read from path and query, else from the body.
    model = action.request
    perform.__annotations__["request"] = Annotated[model, Depends(model)] if action.is_about_job else model
    api.add_api_route(
        action.path,
        perform,
        methods=["POST"],
        name=name,
        summary=action.title,
        description=action.about,
        status_code=action.status,
        response_model=action.result,
        responses=_NOT_FOUND if action.is_about_job else None,
    )


# ─── Before and after the routes ───


class Admission:
    """ASGI middleware: asks for the token before the body is read; FastAPI's dependencies ask afterwards."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        app = self._app
        try:
            await self._access.look(Request(scope))
        except HTTPException as error:
            app = _problem(error.status_code, error.detail, error.headers)
        await app(scope, receive, send)


class BoundedBody:
    """ASGI middleware: bounds a request's body before anything reads it, and forbids caching of answers."""

    _HEADERS: Mapping[str, str] = {"cache-control": "no-store", "x-content-type-options": "nosniff"}

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        left = MAX_BODY

        async def receive_bounded() -> Message:
            nonlocal left
            message = await receive()
            left -= len(message.get("body", b""))
            if left < 0:
                raise HTTPException(413, f"A body may have {MAX_BODY:,} bytes.")
            return message

        async def send_private(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(self._HEADERS)
            await send(message)

        await self._app(scope, receive_bounded, send_private)


# ─── Problems ───


def _handle_errors(api: FastAPI) -> None:
    """Answer every error as a ``Problem``. It does not repeat the request's values, which may be anything."""

    @api.exception_handler(StarletteHTTPException)
    async def refused(_: Request, error: StarletteHTTPException) -> JSONResponse:
        return _problem(error.status_code, str(error.detail), error.headers)

    @api.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        return _problem(422, faults(error.errors()))

    @api.exception_handler(PipelineError)
    async def failed(_: Request, error: PipelineError) -> JSONResponse:
        if isinstance(error, NotFoundError):
            return _problem(404, str(error))
        invalid = isinstance(error, InvalidEventError | InvalidInputError | MessageRefusedError)
        return _problem(422 if invalid or not isinstance(error, ServiceError) else 503, str(error))


def _problem(status: int, text: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    # Surrogates cannot be encoded: they are written as escapes.
    encodable = text.encode(errors="backslashreplace").decode()
    return JSONResponse({"error": encodable}, status_code=status, headers=headers)
