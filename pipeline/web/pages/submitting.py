"""The page that starts a job: an event for a stage, typed into a form."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import HTMLResponse, Response

from pipeline.errors import PipelineError
from pipeline.web.access import Actor, log_action
from pipeline.web.pages.frame import Pages, Said, field, read_form
from pipeline.web.pipelineview import stage_views
from pipeline.web.site import Site


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the form holds."""

    start: str = ""
    data: str = "{\n  \n}"
    entity: str = ""


def submit_router(site: Site, pages: Pages) -> APIRouter:
    """``/submit``."""
    router = APIRouter(dependencies=[Depends(site.access.look)], default_response_class=HTMLResponse)

    schemas = {name: stage.input_schema() for name, stage in site.registry.by_name.items()}

    def form_page(asked: Asked, wrong: str = "", status: int = 200) -> HTMLResponse:
        stages = stage_views(site.settings, site.registry)
        return pages.page("submit.html", status, stages=stages, schemas=schemas, asked=asked, wrong=wrong)

    @router.get("/submit")
    async def form(request: Request) -> HTMLResponse:
        return form_page(Asked(start=request.query_params.get("stage", "")))

    @router.post("/submit", response_model=None)
    async def submit(request: Request, actor: Annotated[Actor, Depends(site.access.act)]) -> Response:
        given = await read_form(request)
        asked = Asked(start=field(given, "start"), data=field(given, "data"), entity=field(given, "entity"))
        log_action(actor, "submit", start=asked.start, entity_id=asked.entity)
        try:
            job = await site.live.act(
                lambda: site.actions.submit(asked.start, asked.data.encode(), asked.entity or None)
            )
        except PipelineError as error:
            return form_page(asked, str(error), 422)
        return pages.go(f"/jobs/{job.job_id}", Said(kind="done", title="Submitted"))

    return router
