"""The pages of dead letters: browse, read, redrive what is chosen, purge."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import HTMLResponse, RedirectResponse

from pipeline.deadletters import Filter, Place
from pipeline.errors import PipelineError, ServiceError
from pipeline.web.access import Actor, log_action
from pipeline.web.pages.frame import Pages, Said, field, read_form, since
from pipeline.web.pages.tellings import told
from pipeline.web.site import Site

AT = "/dead-letters"

#: Where dead letters are looked for, in words.
PLACES: Mapping[Place, str] = {
    "sqs": "SQS queue",
    "kafka": "Kafka topic",
    "errors": "errors topic: also what SQS dropped",
}


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the list's form asks for, as it was typed."""

    stage: str
    error: str
    job: str
    place: str
    age: str

    @classmethod
    def of(cls, query: Mapping[str, str]) -> "Asked":
        """What an address, or a form, says."""
        return cls(**{each.name: query.get(each.name, "").strip() for each in fields(cls)})

    def filter(self, now: float, before: float | None = None) -> Filter:
        """What it means; ``before``: only what was given up on before that moment."""
        return Filter(
            stage=self.stage or None,
            error=self.error or None,
            job_id=self.job or None,
            place=next((place for place in PLACES if place == self.place), None),
            since=since(self.age, now),
            before=before,
        )


def letters_router(site: Site, pages: Pages) -> APIRouter:
    """``/dead-letters`` and below."""
    router = APIRouter(
        prefix=AT, dependencies=[Depends(site.access.look)], default_response_class=HTMLResponse
    )
    acting = Annotated[Actor, Depends(site.access.act)]

    @router.get("")
    async def letters(request: Request) -> HTMLResponse:
        asked = Asked.of(request.query_params)
        found = await site.live.letters(asked.filter(time.time()))
        return pages.page(
            "letters.html",
            list=found,
            asked=asked,
            filtered=any(vars(asked).values()),
            places=PLACES.items(),
            stages=[(name, name) for name in site.registry.by_name],
            said=pages.said(request),
        )

    @router.get("/{letter_id}")
    async def letter(letter_id: str) -> HTMLResponse:
        view = await site.live.letter(letter_id)
        if view is None:
            why = f"{letter_id} was redriven or purged, or somebody else looks at it now."
            return pages.error(404, "No such dead letter", why)
        return pages.page("letter.html", view=view)

    @router.post("/redrive")
    async def redrive(request: Request, actor: acting) -> RedirectResponse:
        form = await read_form(request)
        chosen, out_of_order = frozenset(form.get("id", ())), bool(field(form, "out_of_order"))
        if not chosen:
            return pages.go(AT, Said(kind="waits", title="Nothing was chosen"))
        log_action(actor, "redrive", letters=sorted(chosen), out_of_order=out_of_order)
        wanted = Filter(ids=chosen)
        try:
            tally = await site.live.act(lambda: site.actions.redrive(wanted, out_of_order=out_of_order))
        except ServiceError as error:
            return pages.go(AT, Said(kind="failed", title="Not redriven", text=str(error)))
        return pages.go(AT, told(tally))

    @router.post("/purge")
    async def purge(request: Request, actor: acting) -> RedirectResponse:
        form = await read_form(request)
        asked = Asked.of({name: values[0] for name, values in form.items()})
        # What came after the page was made nobody has seen.
        wanted = asked.filter(time.time(), before=_moment(field(form, "seen_at")))
        confirmed = field(form, "confirm")
        log_action(actor, "purge", confirmed=confirmed, **vars(asked))
        try:
            tally = await site.live.act(lambda: site.actions.purge(wanted, confirmed))
        except (PipelineError, ValueError) as error:
            return pages.go(AT, Said(kind="failed", title="Nothing was purged", text=str(error)))
        return pages.go(AT, told(tally))

    return router


def _moment(text: str) -> float:
    """Seconds since 1970; 0, before which nothing is, for what is no such moment."""
    try:
        return float(text)
    except ValueError:
        return 0.0
