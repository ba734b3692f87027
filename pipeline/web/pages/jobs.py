"""The pages of jobs: the list, one job with its timeline, and the parts of a stage."""

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from pipeline.author.registry import Registry
from pipeline.errors import ServiceError
from pipeline.jobs import JobState, StageProgress
from pipeline.web.model import Away, JobDetail, JobFilter
from pipeline.web.pages.frame import Pages, path, since, soon, typed
from pipeline.web.pages.overview import PULSE
from pipeline.web.requests import JobId, Ordinal, StageName
from pipeline.web.site import Site

#: Jobs on a page of the list.
LIMIT = 50

#: The form of ``JobList.next``.
_CURSOR = re.compile(r"\d{10}\.\d{3}#[A-Za-z0-9._:-]{0,128}")


@dataclass(frozen=True, kw_only=True)
class JobsQuery:
    """The values of the list's filter form, as typed."""

    state: str
    stage: str
    age: str
    entity: str
    text: str
    #: Cursor of the page; empty for the newest.
    before: str

    @classmethod
    def of(cls, query: Mapping[str, str]) -> "JobsQuery":
        """Read an address; an invalid cursor means the newest page."""
        given = typed(query, [each.name for each in fields(cls)])
        return cls(**given | {"before": given["before"] if _CURSOR.fullmatch(given["before"]) else ""})

    def filter(self, now: float) -> JobFilter:
        """Return the filter for these values."""
        return JobFilter(
            state=JobState(self.state) if self.state in set(JobState) else None,
            stage=self.stage or None,
            since=since(self.age, now),
            entity_id=self.entity or None,
            text=self.text or None,
        )

    def address(self, before: str | None) -> str:
        """Return the address of another page of this list."""
        return path("/jobs", **{**vars(self), "before": before})


def jobs_router(site: Site, pages: Pages) -> APIRouter:
    """Return the routes of ``/jobs`` and below."""
    router = APIRouter(dependencies=[Depends(site.access.look)], default_response_class=HTMLResponse)
    _add_list(router, site, pages)
    _add_job(router, site, pages)
    return router


def _add_list(router: APIRouter, site: Site, pages: Pages) -> None:
    @router.get("/jobs")
    async def jobs(request: Request) -> HTMLResponse:
        asked = JobsQuery.of(request.query_params)
        values: dict[str, Any] = {
            "asked": asked,
            "filtered": any((asked.state, asked.stage, asked.age, asked.entity, asked.text)),
            "states": [(state, state) for state in JobState],
            "stages": [(name, name) for name in site.registry.by_name],
            "address": asked.address(asked.before),
            "newest": asked.address(None),
            "live": PULSE,
            "limit": LIMIT,
            "notice": pages.notice(request),
        }
        # Only the newest page updates itself.
        beats = [] if asked.before else ["sse:pulse throttle:1s"]
        wanted = site.live.jobs(asked.filter(time.time()), asked.before or None, LIMIT)
        try:
            # A fetch by the page itself waits for the data, so that it arrives.
            found = await wanted if "hx-request" in request.headers else await soon(wanted)
        except ServiceError as error:
            away = Away(service="DynamoDB", error=str(error), since=time.time())
            return pages.page("jobs.html", away=away, list=None, trigger=", ".join(beats), **values)
        if found is None:
            beats.append("load")
        else:
            values["further"] = asked.address(found.next)
        return pages.page("jobs.html", away=None, list=found, trigger=", ".join(beats), **values)


def _add_job(router: APIRouter, site: Site, pages: Pages) -> None:
    @router.get("/jobs/{job_id}", response_model=None)
    async def job(job_id: JobId, request: Request) -> Response:
        view = await site.live.job(job_id)
        if view is None and (found := await site.live.job_ids(job_id)):
            # The beginning of an id: its job, or the list of those it may be.
            page = path(f"/jobs/{found[0]}") if len(found) == 1 else path("/jobs", text=job_id)
            return RedirectResponse(page, status_code=303)
        if view is None:
            reason = f"This service has no job {job_id}, or it is older than JOB_EXPIRY_DAYS."
            return pages.error(404, "No such job", reason)
        return pages.page(
            "job.html",
            live=PULSE,
            view=view,
            notice=pages.notice(request),
            stage_options=[(row.progress.stage, row.progress.stage) for row in view.stages],
            spans=spans(view, site.registry),
            changed_at=changed_at(view),
            split_stages={stage.name for stage in site.registry.by_name.values() if stage.is_split},
        )

    @router.get("/jobs/{job_id}/parts/{stage}")
    async def parts(job_id: JobId, stage: StageName, after: Ordinal | None = None) -> HTMLResponse:
        view = await site.live.parts(job_id, stage, after)
        if view is None:
            return pages.error(404, "No such parts", f"Stage {stage} of job {job_id} has not been split.")
        return pages.page("parts.html", view=view, job_id=job_id, stage=stage, after=after)


def changed_at(view: JobDetail) -> float:
    """Return when a stage of a job ended last, or a task of it failed last; else its submission."""
    ends = [row.progress.finished_at for row in view.stages if row.progress.finished_at is not None]
    failures = [row.failure.failed_at for row in view.failures]
    return max([view.job.updated_at, *ends, *failures])


# ─── The timeline ───


@dataclass(frozen=True, kw_only=True)
class Span:
    """A stage's time within its job: 0 is the job's submission, 1 its end, or now."""

    begin: float
    end: float


def spans(view: JobDetail, registry: Registry) -> Mapping[str, Span | None]:
    """Return a span for each stage; None for a stage that has not begun.

    A stage begins when the one before it ends, so a span includes the wait for a worker.
    """
    progress = {row.progress.stage: row.progress for row in view.stages}
    start = view.job.submitted_at
    until = view.job.closed_at if view.job.closed_at is not None else view.taken_at
    whole = max(until - start, 0.001)
    found: dict[str, Span | None] = {}
    for name, stage in progress.items():
        began = _began(progress, _before(name, registry), start)
        ended = stage.finished_at if stage.finished_at is not None else until
        found[name] = None
        if began is not None:
            found[name] = Span(begin=_share(began - start, whole), end=_share(ended - start, whole))
    return found


def _before(name: str, registry: Registry) -> Sequence[str]:
    """Return the stages whose events a stage consumes."""
    stage = registry.by_name.get(name)
    return [each.name for each in registry.by_name.values() if stage and each.emits == stage.consumes]


def _began(progress: Mapping[str, StageProgress], before: Sequence[str], start: float) -> float | None:
    """Return when a stage's event existed: at submission for a first stage; None before."""
    own = [progress[name] for name in before if name in progress]
    if not own:
        return start
    ends = [each.finished_at for each in own if each.finished_at is not None]
    return min(ends, default=None)


def _share(seconds: float, whole: float) -> float:
    return min(max(seconds / whole, 0.0), 1.0)
