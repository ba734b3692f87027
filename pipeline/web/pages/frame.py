"""The frame of all pages: templates, security headers, addresses, and notices about actions."""

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import Awaitable, Iterable, Mapping
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

from fastapi import HTTPException, Request
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles
from starlette.responses import Response
from starlette.types import Scope

from pipeline.settings import Settings
from pipeline.web.access import Access
from pipeline.web.actions import ACTIONS
from pipeline.web.notices import Notice
from pipeline.web.pages.rendering import STATIC, fingerprint, make_templates

#: Scripts and styles come from this site only, and no other site may show a page in a frame.
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}

#: The ages that a filter offers: seconds and words.
AGES = {
    "15min": (900, "in the last 15 minutes"),
    "1h": (3_600, "in the last hour"),
    "1d": (86_400, "in the last day"),
    "7d": (604_800, "in the last 7 days"),
}

#: Characters of a value in a filter form; an entity's key has 1,024 at most.
MAX_TYPED = 1_024

#: Notices that are kept.
MAX_NOTICES = 500

#: Seconds that a page waits for its data: a person should see something within 0.3.
SOON = 0.1

T = TypeVar("T")


class Pages:
    """Renders the templates for one service."""

    def __init__(self, settings: Settings, access: Access) -> None:
        self._templates = make_templates()
        self._templates.globals |= {
            "path": path,
            "asset": asset,
            "actions": ACTIONS,
            "ages": [(name, title) for name, (_, title) in AGES.items()],
            "service": settings.service_name,
            "may_act": access.may_act,
            "why_not": "WEB_READ_ONLY is true" if settings.web_read_only else "WEB_TOKEN is not set",
            "dlq": settings.sqs_dlq_url.rsplit("/", 1)[1],
        }
        self._notices: OrderedDict[str, Notice] = OrderedDict()

    def page(self, template: str, status: int = 200, **values: Any) -> HTMLResponse:
        """Return a page; ``live`` is the address of its event stream, None for a page without updates."""
        return HTMLResponse(
            self.render(template, **{"live": None, "notice": None, **values}), status, HEADERS
        )

    def render(self, template: str, **values: Any) -> str:
        """Return a template's HTML."""
        return self._templates.get_template(template).render(values)

    def error(
        self, status: int, title: str, text: str, headers: Mapping[str, str] | None = None
    ) -> HTMLResponse:
        """Return a page that says why there is nothing else to show."""
        answer = self.page("error.html", status, title=title, text=text)
        answer.headers.update(headers or {})
        return answer

    # ─── Notices: an action leads to another page, which shows its outcome ───

    def redirect(self, notice: Notice) -> RedirectResponse:
        """Lead to a notice's page. The address holds a random id only: a link cannot put words on a page."""
        notice_id = secrets.token_urlsafe(9)
        self._notices[notice_id] = notice
        while len(self._notices) > MAX_NOTICES:
            self._notices.popitem(last=False)
        return RedirectResponse(path(notice.page, notice=notice_id), status_code=303)

    def notice(self, request: Request) -> Notice | None:
        """Return the notice that an address names; None without one, or for one of another process."""
        return self._notices.get(request.query_params.get("notice", ""))


class Static(StaticFiles):
    """The packaged files. An address with a fingerprint always means the same content."""

    def __init__(self) -> None:
        super().__init__(directory=STATIC)

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Return a file with the time that a browser may keep it."""
        response = await super().get_response(path, scope)
        kept = "public, max-age=31536000, immutable" if scope["query_string"] else "no-cache"
        response.headers.update({"Cache-Control": kept, "X-Content-Type-Options": "nosniff"})
        return response


def path(at: str, **query: Any) -> str:
    """Return an address on this site, with the query's values that are not empty."""
    given = {name: value for name, value in query.items() if value not in (None, "")}
    return quote(at, safe="/:@") + (f"?{urlencode(given)}" if given else "")


def typed(query: Mapping[str, str], names: Iterable[str]) -> dict[str, str]:
    """Return values of a filter form, as typed; refuse one that is longer than anything real."""
    given = {name: query.get(name, "").strip() for name in names}
    if long := [name for name, value in given.items() if len(value) > MAX_TYPED]:
        raise HTTPException(422, f"{', '.join(long)}: at most {MAX_TYPED:,} characters.")
    return given


def asset(name: str) -> str:
    """Return a static file's address."""
    return f"/static/{name}?v={fingerprint(name)}"


def since(age: str, now: float) -> float | None:
    """Return when an age began, in steps of ten seconds: requests at about the same time share a read."""
    return (now - AGES[age][0]) // 10 * 10 if age in AGES else None


async def soon(read: Awaitable[T]) -> T | None:
    """Return the data if it is there soon, else None: the page is then shown without it, and fetches it."""
    try:
        return await asyncio.wait_for(read, SOON)
    except TimeoutError:
        return None
