"""The pages of jobs: the list, one job, the parts of a stage, and what can be done about a job."""

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import HTMLResponse, RedirectResponse

from pipeline.deadletters import Filter
from pipeline.errors import PipelineError, ServiceError
from pipeline.jobs import JobState
from pipeline.web.access import Actor, log_action
from pipeline.web.model import Away, JobFilter
from pipeline.web.pages.frame import Pages, Said, field, path, read_form, since, soon
from pipeline.web.pages.overview import PULSE
from pipeline.web.pages.tellings import told, told_replay
from pipeline.web.pages.timeline import spans
from pipeline.web.site import Site

#: Jobs on a page of the list.
LIMIT = 50

#: As ``JobList.next`` has it.
_CURSOR = re.compile(r"\d{10}\.\d{3}#[A-Za-z0-9._:-]{0,128}")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the list's form asks for, as it was typed."""

    state: str
    stage: str
    age: str
    entity: str
    text: str
    #: Cursor of the page; empty for the newest.
    before: str

    @classmethod
    def of(cls, query: Mapping[str, str]) -> "Asked":
        """What an address says; a cursor that is none means the newest."""
        given = {each.name: query.get(each.name, "").strip() for each in fields(cls)}
        return cls(**given | {"before": given["before"] if _CURSOR.fullmatch(given["before"]) else ""})

    def filter(self, now: float) -> JobFilter:
        """What it means."""
        return JobFilter(
            state=JobState(self.state) if self.state in set(JobState) else None,
            stage=self.stage or None,
            since=since(self.age, now),
            entity_id=self.entity or None,
            text=self.text or None,
        )

    def address(self, before: str | None) -> str:
        """Of another page of the same."""
        return path("/jobs", **{**vars(self), "before": before})


def jobs_router(site: Site, pages: Pages) -> APIRouter:
    """``/jobs``, ``/jobs/<id>`` and below."""
    router = APIRouter(dependencies=[Depends(site.access.look)], default_response_class=HTMLResponse)
    _add_list(router, site, pages)
    _add_job(router, site, pages)
    _add_actions(router, site, pages)
    return router


def _add_list(router: APIRouter, site: Site, pages: Pages) -> None:
    @router.get("/jobs")
    async def jobs(request: Request) -> HTMLResponse:
        asked = Asked.of(request.query_params)
        values: dict[str, Any] = {
            "asked": asked,
            "filtered": any((asked.state, asked.stage, asked.age, asked.entity, asked.text)),
            "states": [(state, state) for state in JobState],
            "stages": [(name, name) for name in site.registry.by_name],
            "address": asked.address(asked.before),
            "newest": asked.address(None),
            "live": PULSE,
            "limit": LIMIT,
        }
        # Only the newest page changes by itself.
        beats = [] if asked.before else ["sse:pulse throttle:1s"]
        wanted = site.live.jobs(asked.filter(time.time()), asked.before or None, LIMIT)
        try:
            # What a page fetches is waited for, so that it comes.
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
    @router.get("/jobs/{job_id}")
    async def job(job_id: str, request: Request) -> HTMLResponse:
        view = await site.live.job(job_id)
        if view is None:
            return pages.error(
                404,
                "No such job",
                f"{job_id} was never submitted here, or is longer ago than JOB_EXPIRY_DAYS.",
            )
        return pages.page(
            "job.html",
            live=PULSE,
            view=view,
            said=pages.said(request),
            spans=spans(view, site.registry),
            split_stages={stage.name for stage in site.registry.by_name.values() if stage.is_split},
        )

    @router.get("/jobs/{job_id}/parts/{stage}")
    async def parts(job_id: str, stage: str, request: Request) -> HTMLResponse:
        after = request.query_params.get("after", "")
        view = await site.live.parts(job_id, stage, int(after) if after.isdecimal() else None)
        if view is None:
            return pages.error(404, "No such parts", f"Stage {stage} of job {job_id} has not been split.")
        return pages.page("parts.html", view=view, job_id=job_id, stage=stage, after=after)


def _add_actions(router: APIRouter, site: Site, pages: Pages) -> None:
    acting = Annotated[Actor, Depends(site.access.act)]

    @router.post("/jobs/{job_id}/redrive")
    async def redrive(job_id: str, request: Request, actor: acting) -> RedirectResponse:
        out_of_order = bool(field(await read_form(request), "out_of_order"))
        log_action(actor, "redrive", job_id=job_id, out_of_order=out_of_order)
        wanted = Filter(job_id=job_id)
        try:
            tally = await site.live.act(lambda: site.actions.redrive(wanted, out_of_order=out_of_order))
        except ServiceError as error:
            return pages.go(f"/jobs/{job_id}", Said(kind="failed", title="Not redriven", text=str(error)))
        return pages.go(f"/jobs/{job_id}", told(tally))

    @router.post("/jobs/{job_id}/replay")
    async def replay(job_id: str, request: Request, actor: acting) -> RedirectResponse:
        form = await read_form(request)
        stage, again = field(form, "stage"), bool(field(form, "again"))
        log_action(actor, "replay", job_id=job_id, stage=stage, again=again)
        try:
            view = await site.live.job(job_id)
            if view is None:
                return pages.go("/jobs", Said(kind="failed", title="There is no such job", text=job_id))
            found = view.job
            tally = await site.live.act(lambda: site.actions.replay(found, stage, again))
        except PipelineError as error:
            return pages.go(f"/jobs/{job_id}", Said(kind="failed", title="Not replayed", text=str(error)))
        return pages.go(f"/jobs/{tally.job_id}", told_replay(tally, stage))

    @router.post("/jobs/{job_id}/cancel")
    async def cancel(job_id: str, actor: acting) -> RedirectResponse:
        log_action(actor, "cancel", job_id=job_id)
        try:
            job = await site.live.act(lambda: site.actions.cancel(job_id))
        except ServiceError as error:
            return pages.go(f"/jobs/{job_id}", Said(kind="failed", title="Not cancelled", text=str(error)))
        if job is not None and job.state is JobState.CANCELLED:
            return pages.go(f"/jobs/{job_id}", Said(kind="done", title="Cancelled"))
        return pages.go(
            f"/jobs/{job_id}", Said(kind="waits", title="Not cancelled", text="It has ended already.")
        )
