"""Dead letters as the page shows them: looked at for a bounded time, by one request at a time.

Looking at the SQS dead-letter queue hides what is seen until the look ends, so two looks at once would each
see a part. What redrives or removes takes the same turn.
"""

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, replace

from config.settings import Settings
from pipeline.deadletters import DeadLetter, Filter, Look, Place
from pipeline.errors import ServiceError, ServiceUnavailableError
from pipeline.web.links import Links
from pipeline.web.model import Away, LetterDetail, LetterList, LetterRow, Service
from pipeline.web.shown import shown

#: Dead letters of one look, and the seconds it lasts at most.
LETTERS, TIME = 500, 3.0

#: Seconds to wait for one's turn.
PATIENCE = 10.0

#: Each place with its service, and those that are looked at when none is named: what the errors topic tells
#: of is on the queue as well, unless SQS dropped it.
_SERVICES: Mapping[Place, Service] = {"sqs": "SQS", "kafka": "Kafka", "errors": "Kafka"}
_PLACES: tuple[Place, ...] = ("sqs", "kafka")
_SHOWN = tuple(field.name for field in fields(LetterRow))


class Letters:
    """The dead letters of one service. Threads may share it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._links = Links(settings)
        self._turn = threading.Lock()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Be the only one who looks, within this process; a ServiceUnavailableError when it takes long."""
        if not self._turn.acquire(timeout=PATIENCE):
            raise ServiceUnavailableError("Somebody else goes through the dead letters now. Try again soon.")
        try:
            yield
        finally:
            self._turn.release()

    def find(self, wanted: Filter) -> LetterList:
        """Those that are wanted, newest first: as many as a moment shows."""
        rows: list[LetterRow] = []
        away: list[Away] = []
        complete, unseen = True, 0
        deadline = time.monotonic() + TIME
        for place in _PLACES if wanted.place is None else (wanted.place,):
            try:
                found, ended, hidden = self._look(replace(wanted, place=place), LETTERS - len(rows), deadline)
            except ServiceError as error:
                away.append(Away(service=_SERVICES[place], error=str(error), since=time.time()))
            else:
                rows += found
                complete, unseen = complete and ended, unseen + hidden
        rows.sort(key=lambda row: row.failed_at, reverse=True)
        return LetterList(rows=rows, complete=complete, unseen=unseen, away=away, taken_at=time.time())

    def show(self, letter_id: str) -> LetterDetail | None:
        """One, by its id or that of its task; None when there is none, or it is far back in a long queue."""
        with self.turn(), Look(self._settings, Filter(ids=frozenset({letter_id}))) as look:
            deadline = time.monotonic() + TIME
            for batch in look.batches():
                for letter in batch:
                    return self._detail(letter)
                if time.monotonic() > deadline:
                    break
        return None

    def _look(self, wanted: Filter, most: int, deadline: float) -> tuple[list[LetterRow], bool, int]:
        """Rows, whether they are all, and about how many more nobody can see now."""
        rows: list[LetterRow] = []
        with self.turn(), Look(self._settings, wanted) as look:
            for batch in look.batches():
                rows += map(row_of, batch)
                if len(rows) >= most or time.monotonic() > deadline:
                    return rows[:most], False, 0
            return rows, True, look.unseen()

    def _detail(self, letter: DeadLetter) -> LetterDetail:
        return LetterDetail(
            row=row_of(letter),
            traceback=shown(letter.traceback),
            headers=shown(letter.headers),
            data=shown(letter.data),
            flower_url=self._links.flower(letter.task_id),
        )


def row_of(letter: DeadLetter) -> LetterRow:
    """A dead letter without its data: a list of many must not hold all of theirs."""
    return LetterRow(**{name: shown(getattr(letter, name)) for name in _SHOWN})
