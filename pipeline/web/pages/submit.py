"""The page that starts a job: a form for the event of a stage."""

from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import HTMLResponse

from pipeline.web.pages.forms import Form
from pipeline.web.pages.frame import Pages
from pipeline.web.site import Site
from pipeline.web.views import stage_views

#: What the form holds at first.
EMPTY = {"start": "", "data": "{\n  \n}", "entity_id": ""}


class SubmitPage:
    """The page of one service."""

    def __init__(self, site: Site, pages: Pages) -> None:
        self._pages = pages
        self._stages = stage_views(site.settings, site.registry)
        self._schemas = {name: stage.input_schema() for name, stage in site.registry.by_name.items()}
        self.router = APIRouter(dependencies=[Depends(site.access.look)], default_response_class=HTMLResponse)
        self.router.add_api_route("/submit", self._show)

    async def _show(self, request: Request) -> HTMLResponse:
        return self._page({"start": request.query_params.get("stage", "")})

    def refused(self, form: Form, reason: str) -> HTMLResponse:
        """Return the form as it was filled in, with the reason why it was refused."""
        return self._page({name: form.get(name, [""])[0] for name in EMPTY}, reason, 422)

    def _page(self, values: dict[str, Any], refused: str = "", status: int = 200) -> HTMLResponse:
        return self._pages.page(
            "submit.html",
            status,
            stages=self._stages,
            schemas=self._schemas,
            values={**EMPTY, **values},
            refused=refused,
        )
