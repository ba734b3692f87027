"""The pages of dead letters: the list, and one letter."""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace

from fastapi import APIRouter, Depends, Request
from fastapi.responses import HTMLResponse

from pipeline.deadletters import Filter, Place
from pipeline.web.pages.frame import Pages, since, typed
from pipeline.web.requests import LetterId
from pipeline.web.site import Site

#: Characters of a job id that this project makes, and the ids that an error lists.
WHOLE_ID, CANDIDATES = 36, 10

#: The places of dead letters, in words.
PLACES: Mapping[Place, str] = {
    "sqs": "SQS queue",
    "kafka": "Kafka topic",
    "errors": "errors topic: also tasks that SQS dropped",
}


@dataclass(frozen=True, kw_only=True)
class LettersQuery:
    """The values of the list's filter form, as typed."""

    stage: str
    error: str
    job: str
    place: str
    age: str

    @classmethod
    def of(cls, query: Mapping[str, str]) -> "LettersQuery":
        """Read an address."""
        return cls(**typed(query, [each.name for each in fields(cls)]))

    def filter(self, now: float) -> Filter:
        """Return the filter for these values."""
        return Filter(
            stage=self.stage or None,
            error=self.error or None,
            job_id=self.job or None,
            place=next((place for place in PLACES if place == self.place), None),
            since=since(self.age, now),
        )


def letters_router(site: Site, pages: Pages) -> APIRouter:
    """Return the routes of ``/dead-letters`` and below."""
    router = APIRouter(
        prefix="/dead-letters",
        dependencies=[Depends(site.access.look)],
        default_response_class=HTMLResponse,
    )

    @router.get("")
    async def show_letters(request: Request) -> HTMLResponse:
        asked = LettersQuery.of(request.query_params)
        wanted = asked.filter(time.time())
        if asked.job and len(asked.job) < WHOLE_ID:
            found = await site.live.job_ids(asked.job)
            if len(found) > 1:
                reason = f"These ids start with {asked.job}: {', '.join(found[:CANDIDATES])}"
                return pages.error(422, f"{len(found):,} jobs match", reason)
            wanted = replace(wanted, job_id=found[0] if found else asked.job)
        letters = await site.live.letters(wanted)
        # A purge removes no letter that came after the page was made.
        purged = {**asdict(wanted), "ids": None, "before": letters.taken_at}
        return pages.page(
            "letters.html",
            list=letters,
            asked=asked,
            filtered=any(vars(asked).values()),
            purged=purged,
            places=PLACES.items(),
            stages=[(name, name) for name in site.registry.by_name],
            notice=pages.notice(request),
        )

    @router.get("/{letter_id}")
    async def letter(letter_id: LetterId) -> HTMLResponse:
        view = await site.live.letter(letter_id)
        if view is None:
            reason = f"{letter_id} was redriven or purged, or another person is looking at it now."
            return pages.error(404, "No such dead letter", reason)
        return pages.page("letter.html", view=view)

    return router
