"""Bulk redrive and removal: many dead letters in the order of their age, at a limited rate."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import islice

from pipeline.deadletters.letter import DeadLetter
from pipeline.deadletters.listing import Listing
from pipeline.deadletters.redrive import FINISHED, Redriver, RedriveResult, remove
from pipeline.errors import ServiceError
from pipeline.kafka import EventProducer

#: Letters that are sorted together, and the characters of data that they may have.
SORTED, SORTED_CHARACTERS = 1_000, 50_000_000
#: Letters redriven in one batch; and the longest sleep (seconds) without extending holds.
BATCH, NAP = 10, 10.0


def redrive_all(
    listing: Listing,
    redriver: Redriver,
    rate: float | None = None,
    sleep: Callable[[float], None] = time.sleep,
    *,
    sort_seconds: float | None = None,
) -> Iterator[list[RedriveResult]]:
    """Redrive every listed letter, at most ``rate`` a second; yield the results of each batch.

    Empty lists come in between, while letters are read: the caller may stop after any list and knows all
    results so far. After ``sort_seconds`` the letters read so far are redriven; older ones may follow.
    A task that fails again meanwhile is a new dead letter, and is not redriven a second time. A task that a
    replay sent again may have several letters: one is redriven, the others are removed.
    """
    started, done = time.monotonic(), 0
    #: By identity, the generation of the letter that was redriven.
    redriven: dict[str, int] = {}
    for letters in _by_age(listing, sort_seconds):
        if not letters:
            yield []
        for chunk in _chunks(letters, BATCH if rate is None else max(1, min(BATCH, int(rate)))):
            # A thousand may take minutes, and the last of them must stay held.
            listing.scan.extend()
            unproved = redriver.refuse_unproved(chunk)
            refused = {result.letter.id for result in unproved}
            proved = [letter for letter in chunk if letter.id not in refused]
            first = {
                letter.identity: letter for letter in reversed(proved) if letter.identity not in redriven
            }
            fresh = [letter for letter in proved if first.get(letter.identity) is letter]
            results = redriver.redrive(fresh)
            for result in results:
                if result.outcome in FINISHED:
                    redriven[result.letter.identity] = result.letter.generation
            others = [letter for letter in proved if first.get(letter.identity) is not letter]
            copies = redriver.remove_copies([letter for letter in others if _is_copy(letter, redriven)])
            skipped = [_skip(letter) for letter in others if not _is_copy(letter, redriven)]
            yield unproved + results + copies + skipped
            done += len(fresh)
            if rate:
                _sleep_until(started + done / rate, listing, sleep)


def remove_all(
    listing: Listing, producer: EventProducer, how: str
) -> Iterator[list[tuple[DeadLetter, ServiceError | None]]]:
    """Remove every listed letter; yield each batch with the errors of those that could not be removed."""
    for letters in listing.batches():
        yield list(zip(letters, remove(listing.scan, producer, letters, how), strict=True))


def _by_age(listing: Listing, seconds: float | None) -> Iterator[list[DeadLetter]]:
    """Yield letters sorted by age, as far as memory and time allow: letters of one entity keep their order.

    Empty lists while it reads.
    """
    until = math.inf if seconds is None else time.monotonic() + seconds
    letters: list[DeadLetter] = []
    size = 0
    for batch in listing.batches():
        letters += batch
        size += sum(len(letter.data or "") for letter in batch)
        if len(letters) >= SORTED or size >= SORTED_CHARACTERS or time.monotonic() > until:
            yield sorted(letters, key=_age)
            letters, size = [], 0
        else:
            yield []
        listing.scan.extend()
    yield sorted(letters, key=_age)


def _is_copy(letter: DeadLetter, redriven: Mapping[str, int]) -> bool:
    """Whether it is of a stage's task that was redriven as the same or a later generation.

    Plain Celery's retries are other messages under the same id.
    """
    return letter.ref is not None and letter.generation <= redriven.get(letter.identity, -1)


def _skip(letter: DeadLetter) -> RedriveResult:
    why = "another dead letter of its task was handled in this run"
    return RedriveResult(letter=letter, outcome="skipped", why=why)


def _age(letter: DeadLetter) -> tuple[float, int]:
    return letter.first_at or letter.failed_at, letter.offset or 0


def _chunks(letters: list[DeadLetter], size: int) -> Iterator[list[DeadLetter]]:
    waiting = iter(letters)
    while chunk := list(islice(waiting, size)):
        yield chunk


def _sleep_until(moment: float, listing: Listing, sleep: Callable[[float], None]) -> None:
    while (left := moment - time.monotonic()) > 0:
        sleep(min(left, NAP))
        listing.scan.extend()
