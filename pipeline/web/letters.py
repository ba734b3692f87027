"""Dead letters for the page: searched for a bounded time, by one request at a time.

A search of the SQS dead-letter queue hides the messages it receives until it ends, so two searches at once
would each find a part. Redrives and purges take the same turn.
"""

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, replace

from pipeline.deadletters import DeadLetter, Filter, LetterRow, Listing, Place
from pipeline.errors import ServiceError, ServiceUnavailableError
from pipeline.settings import Settings
from pipeline.web.model import Away, LetterDetail, LetterList, Links, Service, json_safe

#: Maximum dead letters and seconds of one search.
LETTERS, TIME = 500, 3.0

#: Seconds to wait for the turn.
PATIENCE = 10.0

#: The service of each place, and the places that are searched by default: tasks on the errors topic are on
#: the queue as well, unless SQS dropped them.
_SERVICES: Mapping[Place, Service] = {"sqs": "SQS", "kafka": "Kafka", "errors": "Kafka"}
_PLACES: tuple[Place, ...] = ("sqs", "kafka")


class Letters:
    """The dead letters of one service. Threads may share it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._links = Links(settings)
        self._turn = threading.Lock()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Search alone within this process; raise ServiceUnavailableError when the wait is long."""
        if not self._turn.acquire(timeout=PATIENCE):
            raise ServiceUnavailableError(
                "Another request is going through the dead letters. Try again in a moment."
            )
        try:
            yield
        finally:
            self._turn.release()

    def find(self, wanted: Filter) -> LetterList:
        """Return dead letters that match, newest first: as many as are found in time."""
        rows: list[LetterRow] = []
        away: list[Away] = []
        complete, unseen = True, 0
        deadline = time.monotonic() + TIME
        for place in _PLACES if wanted.place is None else (wanted.place,):
            try:
                found, ended, hidden = self._list(replace(wanted, place=place), LETTERS - len(rows), deadline)
            except ServiceError as error:
                away.append(Away(service=_SERVICES[place], error=str(error), since=time.time()))
            else:
                rows += found
                complete, unseen = complete and ended, unseen + hidden
        rows.sort(key=lambda row: row.failed_at, reverse=True)
        return LetterList(rows=rows, complete=complete, unseen=unseen, away=away, taken_at=time.time())

    def show(self, letter_id: str) -> LetterDetail | None:
        """Return one by its id or that of its task; None if unknown, or too far back in a long queue."""
        with self.turn(), Listing(self._settings, Filter(ids=frozenset({letter_id}))) as listing:
            deadline = time.monotonic() + TIME
            for batch in listing.batches():
                for letter in batch:
                    return self._detail(letter)
                if time.monotonic() > deadline:
                    break
        return None

    def _list(self, wanted: Filter, most: int, deadline: float) -> tuple[list[LetterRow], bool, int]:
        """Return rows, whether they are all, and about how many more are hidden now."""
        rows: list[LetterRow] = []
        with self.turn(), Listing(self._settings, wanted) as listing:
            for batch in listing.batches():
                rows += map(row_of, batch)
                if len(rows) >= most or time.monotonic() > deadline:
                    return rows[:most], False, 0
            return rows, True, listing.unseen()

    def _detail(self, letter: DeadLetter) -> LetterDetail:
        return LetterDetail(
            row=row_of(letter),
            traceback=json_safe(letter.traceback),
            headers=json_safe(letter.headers),
            data=json_safe(letter.data),
            flower_url=self._links.flower(letter.task_id),
        )


def row_of(letter: DeadLetter) -> LetterRow:
    """Return a dead letter without its data and traceback: a list of many must stay small."""
    known = {each.name: json_safe(getattr(letter, each.name)) for each in fields(LetterRow)}
    return LetterRow(**(known | {"traceback": ""}))
