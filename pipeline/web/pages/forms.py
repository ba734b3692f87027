"""The forms of the pages: a POST for each action of the table, and the page that shows its outcome."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any
from urllib.parse import parse_qs

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.responses import Response
from pydantic import ValidationError

from pipeline.errors import PipelineError
from pipeline.observe.guard import Actor
from pipeline.web.actions import ACTIONS, Action, NotFoundError
from pipeline.web.notices import Notice
from pipeline.web.pages.frame import Pages
from pipeline.web.requests import faults
from pipeline.web.site import Site

Form = Mapping[str, list[str]]

#: Shows a refused form again, with the reason.
Refusal = Callable[[Form, str], Response]

#: Bytes of a form: an event, percent-encoded.
MAX_FORM = 4_000_000


def forms_router(site: Site, pages: Pages, refusals: Mapping[str, Refusal]) -> APIRouter:
    """Return the routes of all actions; ``refusals``: those that do not lead back with a notice, by name."""
    router = APIRouter(dependencies=[Depends(site.access.look)])
    for name, action in ACTIONS.items():
        _add_form(router, site, pages, action, refusals.get(name))
    return router


def _add_form(
    router: APIRouter, site: Site, pages: Pages, action: Action[Any, Any], refusal: Refusal | None
) -> None:
    @router.post(action.path, response_model=None)
    async def submit(request: Request, actor: Annotated[Actor, Depends(site.access.act)]) -> Response:
        form, path = await _read(request), request.path_params
        try:
            asked = action.request.of_form(form, path)
            notice = action.notice(asked, await site.perform(action, asked, actor))
        except (ValidationError, PipelineError) as error:
            reason = faults(error.errors()) if isinstance(error, ValidationError) else str(error)
            if refusal is not None:
                return refusal(form, reason)
            page = "/jobs" if isinstance(error, NotFoundError) else action.page.format_map(path)
            notice = Notice(kind="failed", title=action.refused, text=reason, page=page)
        return pages.redirect(notice)


async def _read(request: Request) -> Form:
    """Return a form's fields, each with its values, blank ones too."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_FORM:
            raise HTTPException(413, f"A form may have {MAX_FORM:,} bytes.")
    try:
        return parse_qs(body.decode(), keep_blank_values=True, max_num_fields=2_000, errors="strict")
    except ValueError as error:
        raise HTTPException(400, "The form cannot be read: it is not one of these pages.") from error
