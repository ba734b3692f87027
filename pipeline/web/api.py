"""The API ``/api/v1``: what the jobs page shows and does, as JSON, described at ``/api/v1/openapi.json``."""

from collections.abc import Mapping
from importlib.metadata import version
from typing import Annotated, Any, TypeVar

from fastapi import Depends, FastAPI, HTTPException, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer
from pydantic import BaseModel
from starlette.exceptions import HTTPException as StarletteHTTPException

from pipeline.deadletters import Filter, Place
from pipeline.errors import (
    InvalidEventError,
    InvalidInputError,
    MessageRefusedError,
    PipelineError,
    ServiceError,
)
from pipeline.jobs import Job, JobState, PartPage
from pipeline.submission import SubmittedJob
from pipeline.web.access import Actor, log_action
from pipeline.web.guarded import Guarded
from pipeline.web.model import (
    JobDetail,
    JobFilter,
    JobList,
    LetterDetail,
    LetterList,
    PipelineView,
    ReplayTally,
    Tally,
)
from pipeline.web.requests import Choice, Purge, Submit
from pipeline.web.site import Site

PREFIX = "/api/v1"

T = TypeVar("T")

#: Seconds since 1970, as far as a cursor can count them.
Moment = Annotated[float, Query(ge=0, le=9_999_999_999, allow_inf_nan=False)]
Text = Annotated[str, Query(min_length=1, max_length=1_000)]
JobId = Annotated[str, Path(pattern=r"^[A-Za-z0-9._:-]{1,128}$")]
StageName = Annotated[str, Path(pattern=r"^[A-Za-z0-9._-]{1,100}$")]
LetterId = Annotated[str, Path(pattern=r"^[!-.0-~]{1,200}$")]
Cursor = Annotated[str, Query(pattern=r"^\d{10}\.\d{3}#[A-Za-z0-9._:-]{0,128}$")]


class Problem(BaseModel):
    """Why a request was not answered."""

    error: str


_PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "The body cannot be read."},
    401: {"model": Problem, "description": "WEB_TOKEN was not given."},
    403: {"model": Problem, "description": "Refused: looking or acting is not allowed from there."},
    413: {"model": Problem, "description": "The body is larger than any event."},
    422: {"model": Problem, "description": "The request is not as described here, or could only fail."},
    503: {"model": Problem, "description": "Kafka, SQS or DynamoDB is away. Ask again."},
}
_NONE: dict[int | str, dict[str, Any]] = {404: {"model": Problem, "description": "There is none."}}


def make_api(site: Site) -> FastAPI:
    """An application to be mounted at ``PREFIX``."""
    api = FastAPI(
        title=f"{site.settings.service_name}: jobs",
        version=version("pipeline"),
        description="Times are seconds since 1970.",
        docs_url=None,
        redoc_url=None,
        responses=_PROBLEMS,
        dependencies=[Depends(HTTPBearer(auto_error=False)), Depends(site.access.look)],
    )
    api.add_middleware(Guarded)
    _tell_problems(api)
    _looking(api, site)
    _acting(api, site)
    return api


# ─── Looking ───


def _looking(api: FastAPI, site: Site) -> None:
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
        """Jobs, newest submission first. Give ``next`` as ``before`` for what follows, or to look further."""
        wanted = JobFilter(state=state, entity_id=entity_id, stage=stage, text=text, since=since, until=until)
        return await site.live.jobs(wanted, before, limit)

    @api.get("/jobs/{job_id}", responses=_NONE)
    async def job(job_id: JobId) -> JobDetail:
        """One job: its stages, and the first of its failures with traceback and data."""
        return _there(await site.live.job(job_id), f"There is no job {job_id}.")

    @api.get("/jobs/{job_id}/stages/{stage}/parts", responses=_NONE)
    async def parts(
        job_id: JobId,
        stage: StageName,
        after: Annotated[int | None, Query(ge=0, le=1_000_000_000)] = None,
        limit: Annotated[int, Query(ge=1, le=1_000)] = 100,
    ) -> PartPage:
        """The parts of a stage that is split, by ordinal. Give ``next`` as ``after`` for what follows."""
        page = await site.live.parts(job_id, stage, after, limit)
        return _there(page, f"Job {job_id} has no parts in {stage}, or not yet.")

    @api.get("/dead-letters")
    async def letters(
        stage: Text | None = None,
        job_id: Text | None = None,
        error: Text | None = None,
        since: Moment | None = None,
        before: Moment | None = None,
        place: Place | None = None,
    ) -> LetterList:
        """Dead letters, newest first: those that a look of a few seconds finds."""
        return await site.live.letters(
            Filter(stage=stage, job_id=job_id, error=error, since=since, before=before, place=place)
        )

    @api.get("/dead-letters/{letter_id}", responses=_NONE)
    async def letter(letter_id: LetterId) -> LetterDetail:
        """One dead letter, by its id or that of its task: its data, headers and traceback."""
        return _there(await site.live.letter(letter_id), f"There is no dead letter {letter_id}.")


# ─── Acting ───


def _acting(api: FastAPI, site: Site) -> None:
    live, actions = site.live, site.actions
    acting = Annotated[Actor, Depends(site.access.act)]

    @api.post("/jobs", status_code=201)
    async def submit(body: Submit, actor: acting) -> SubmittedJob:
        """Start a job: an event for a stage, or on a topic."""
        log_action(actor, "submit", start=body.start, entity_id=body.entity_id)
        return await live.act(lambda: actions.submit(body.start, body.event_data(), body.entity_id))

    @api.post("/jobs/{job_id}/redrive", responses=_NONE)
    async def redrive_job(job_id: JobId, actor: acting, out_of_order: bool = False) -> Tally:
        """Put all dead letters of a job back where they came from.

        ``out_of_order``: also those of ordered stages, although later tasks of their entity have run.
        """
        await _job(site, job_id)
        log_action(actor, "redrive", job_id=job_id, out_of_order=out_of_order)
        return await live.act(lambda: actions.redrive(Filter(job_id=job_id), out_of_order=out_of_order))

    @api.post("/jobs/{job_id}/replay", responses=_NONE)
    async def replay(job_id: JobId, stage: Text, actor: acting, again: bool = False) -> ReplayTally:
        """Send a stage's task of the job again. What is done stays done; ``again``: as a new job."""
        job = await _job(site, job_id)
        log_action(actor, "replay", job_id=job_id, stage=stage, again=again)
        return await live.act(lambda: actions.replay(job, stage, again))

    @api.post("/jobs/{job_id}/cancel", responses=_NONE)
    async def cancel(job_id: JobId, actor: acting) -> Job:
        """Cancel a job that runs: what of it has not started is skipped. The job as it is then."""
        await _job(site, job_id)
        log_action(actor, "cancel", job_id=job_id)
        return _there(await live.act(lambda: actions.cancel(job_id)), f"There is no job {job_id}.")

    @api.post("/dead-letters/redrive")
    async def redrive(body: Choice, actor: acting) -> Tally:
        """Put dead letters back where they came from; their jobs run again."""
        wanted = body.filter()
        log_action(actor, "redrive", **body.said())
        return await live.act(lambda: actions.redrive(wanted, out_of_order=body.out_of_order))

    @api.post("/dead-letters/purge")
    async def purge(body: Purge, actor: acting) -> Tally:
        """Remove dead letters for good. ``queue`` is the dead-letter queue's name, as a confirmation."""
        wanted = body.filter()
        log_action(actor, "purge", **body.said())
        try:
            return await live.act(lambda: actions.purge(wanted, body.queue))
        except ValueError as error:
            raise HTTPException(422, str(error)) from error


async def _job(site: Site, job_id: str) -> Job:
    return _there(await site.live.record(job_id), f"There is no job {job_id}.")


def _there(found: T | None, otherwise: str) -> T:
    if found is None:
        raise HTTPException(404, otherwise)
    return found


# ─── Problems ───


def _tell_problems(api: FastAPI) -> None:
    """Every problem is told in the same way; what was given is not repeated, it may be anything."""

    @api.exception_handler(StarletteHTTPException)
    async def told(_: Request, error: StarletteHTTPException) -> JSONResponse:
        return _problem(error.status_code, str(error.detail), error.headers)

    @api.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        faults = (f"{'.'.join(str(part) for part in each['loc'])}: {each['msg']}" for each in error.errors())
        return _problem(422, "; ".join(faults))

    @api.exception_handler(PipelineError)
    async def away(_: Request, error: PipelineError) -> JSONResponse:
        refused = isinstance(error, InvalidEventError | InvalidInputError | MessageRefusedError)
        return _problem(422 if refused or not isinstance(error, ServiceError) else 503, str(error))


def _problem(status: int, text: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    # What could not be text in UTF-8 is shown as it is written.
    shown = text.encode(errors="backslashreplace").decode()
    return JSONResponse({"error": shown}, status_code=status, headers=headers)
