"""What all pages have in common: the frame, headers that keep a browser from harm, forms, what was said."""

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import parse_qs, quote, urlencode

from fastapi import HTTPException, Request
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles
from starlette.responses import Response
from starlette.types import Scope

from config.settings import Settings
from pipeline.web.access import Access
from pipeline.web.pages.rendering import STATIC, fingerprint, make_templates

#: Scripts, styles and everything else come from here alone; no page of another site may frame one of these.
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}

#: A span of time that a form offers: its seconds, and its words.
AGES = {
    "15min": (900, "in the last 15 minutes"),
    "1h": (3_600, "in the last hour"),
    "1d": (86_400, "in the last day"),
    "7d": (604_800, "in the last 7 days"),
}

#: What actions said is kept for so many of them.
KEPT = 500

#: Seconds that a page waits for what it shows: a person should see something within 0.3.
SOON = 0.1

T = TypeVar("T")

#: Bytes of a form: an event, written as a form has it.
FORM_BYTES = 4_000_000


@dataclass(frozen=True, kw_only=True)
class Said:
    """What became of an action, above the page it leads to."""

    #: "done", "waits" or "failed": as the style sheet colours it.
    kind: str
    title: str
    text: str = ""


class Pages:
    """Renders the templates for one service."""

    def __init__(self, settings: Settings, access: Access) -> None:
        self._templates = make_templates()
        self._templates.globals |= {
            "path": path,
            "asset": asset,
            "ages": [(name, title) for name, (_, title) in AGES.items()],
            "service": settings.service_name,
            "may_act": access.may_act,
            "why_not": "WEB_READ_ONLY is true" if settings.web_read_only else "WEB_TOKEN is not set",
            "dlq": settings.sqs_dlq_url.rsplit("/", 1)[1],
        }
        self._said: OrderedDict[str, Said] = OrderedDict()

    def page(self, template: str, status: int = 200, **values: Any) -> HTMLResponse:
        """A page; ``live`` is the address of its events, None for one that stands still."""
        return HTMLResponse(self.render(template, **{"live": None, "said": None, **values}), status, HEADERS)

    def render(self, template: str, **values: Any) -> str:
        """A template's HTML."""
        return self._templates.get_template(template).render(values)

    def error(
        self, status: int, title: str, text: str, headers: Mapping[str, str] | None = None
    ) -> HTMLResponse:
        """A page that says what could not be shown, and why."""
        answer = self.page("error.html", status, title=title, text=text)
        answer.headers.update(headers or {})
        return answer

    # ─── What an action leads to: another page, which says what became of it ───

    def go(self, at: str, said: Said) -> RedirectResponse:
        """Lead to a page that says it. The address holds its number only: a link cannot put words here."""
        number = secrets.token_urlsafe(9)
        self._said[number] = said
        while len(self._said) > KEPT:
            self._said.popitem(last=False)
        return RedirectResponse(path(at, said=number), status_code=303)

    def said(self, request: Request) -> Said | None:
        """What the address says was said; None where nothing was, or by another process."""
        return self._said.get(request.query_params.get("said", ""))


class Static(StaticFiles):
    """The packaged files. An address with the content's fingerprint never means anything else."""

    def __init__(self) -> None:
        super().__init__(directory=STATIC)

    async def get_response(self, path: str, scope: Scope) -> Response:
        """As StaticFiles has it, with how long it may be kept."""
        response = await super().get_response(path, scope)
        kept = "public, max-age=31536000, immutable" if scope["query_string"] else "no-cache"
        response.headers.update({"Cache-Control": kept, "X-Content-Type-Options": "nosniff"})
        return response


def path(at: str, **query: Any) -> str:
    """An address on this site, with what of the query is not empty."""
    given = {name: value for name, value in query.items() if value not in (None, "")}
    return quote(at, safe="/:@") + (f"?{urlencode(given)}" if given else "")


def asset(name: str) -> str:
    """A static file's address."""
    return f"/static/{name}?v={fingerprint(name)}"


def since(age: str, now: float) -> float | None:
    """The moment that an age means, in steps of ten seconds: who asks at about the same time shares."""
    return (now - AGES[age][0]) // 10 * 10 if age in AGES else None


async def soon(read: Awaitable[T]) -> T | None:
    """What is read, when it is there soon; None else: then the page is shown without, and fetches it."""
    try:
        return await asyncio.wait_for(read, SOON)
    except TimeoutError:
        return None


async def read_form(request: Request) -> Mapping[str, list[str]]:
    """A form's fields, each with its values, blank ones too; 413 for one that no event could be in."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > FORM_BYTES:
            raise HTTPException(413, f"A form may have {FORM_BYTES:,} bytes.")
    try:
        return parse_qs(body.decode(), keep_blank_values=True, max_num_fields=2_000, errors="strict")
    except ValueError as error:
        raise HTTPException(400, "This is not what one of these pages sends.") from error


def field(form: Mapping[str, list[str]], name: str) -> str:
    """A field's value, without space around it; empty where it is not given."""
    return form.get(name, [""])[0].strip()
