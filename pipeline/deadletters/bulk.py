"""A campaign: many dead letters redriven or removed, in order of their age, at a pace."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import islice

from pipeline.deadletters.letter import DeadLetter
from pipeline.deadletters.look import Look
from pipeline.deadletters.redrive import OVER, Redriven, Redriver, remove
from pipeline.errors import ServiceError
from pipeline.kafka import EventProducer

#: Letters collected to be put in order, and the characters of data that they may have together.
COLLECTED, COLLECTED_CHARACTERS = 1_000, 50_000_000
#: Letters redriven together; and the longest sleep in one piece (seconds), between which holds are extended.
TOGETHER, NAP = 10, 10.0


def redrive_all(
    look: Look,
    redriver: Redriver,
    rate: float | None = None,
    sleep: Callable[[float], None] = time.sleep,
    *,
    collecting: float | None = None,
) -> Iterator[list[Redriven]]:
    """Redrive every letter of a look, at most ``rate`` a second; what became of those redriven together.

    Empty lists come in between, while there is nothing to tell: who has enough may stop after any, and knows
    all that was done. After ``collecting`` seconds what was met is redriven at once, in whatever order.
    A task that fails again meanwhile comes to the dead letters anew, and is not redriven a second time. One
    that was sent again by a replay and failed again has several: one is redriven, the others are removed.
    """
    started, done = time.monotonic(), 0
    #: By identity, as which generation it was redriven.
    seen: dict[str, int] = {}
    for letters in _collected(look, collecting):
        if not letters:
            yield []
        for chunk in _chunks(letters, TOGETHER if rate is None else max(1, min(TOGETHER, int(rate)))):
            # A thousand may take minutes, and the last of them must be held as the first are.
            look.walk.extend()
            first = {letter.identity: letter for letter in reversed(chunk) if letter.identity not in seen}
            fresh = [letter for letter in chunk if first.get(letter.identity) is letter]
            answers = redriver.redrive(fresh)
            for answer in answers:
                if answer.outcome in OVER:
                    seen[answer.letter.identity] = answer.letter.generation
            others = [letter for letter in chunk if first.get(letter.identity) is not letter]
            copies = redriver.remove_copies([letter for letter in others if _is_copy(letter, seen)])
            yield answers + copies + [_again(letter) for letter in others if not _is_copy(letter, seen)]
            done += len(fresh)
            if rate:
                _sleep_until(started + done / rate, look, sleep)


def remove_all(
    look: Look, producer: EventProducer, how: str
) -> Iterator[list[tuple[DeadLetter, ServiceError | None]]]:
    """Remove every letter of a look; those removed together, with the error of those that could not be."""
    for letters in look.batches():
        yield list(zip(letters, remove(look.walk, producer, letters, how), strict=True))


def _collected(look: Look, seconds: float | None) -> Iterator[list[DeadLetter]]:
    """Letters in the order of their age, as far as memory and time allow: those of one entity keep theirs.

    Empty lists while it collects.
    """
    until = math.inf if seconds is None else time.monotonic() + seconds
    letters: list[DeadLetter] = []
    size = 0
    for batch in look.batches():
        letters += batch
        size += sum(len(letter.data or "") for letter in batch)
        if len(letters) >= COLLECTED or size >= COLLECTED_CHARACTERS or time.monotonic() > until:
            yield sorted(letters, key=_age)
            letters, size = [], 0
        else:
            yield []
        look.walk.extend()
    yield sorted(letters, key=_age)


def _is_copy(letter: DeadLetter, redriven: Mapping[str, int]) -> bool:
    """Whether it is of a stage's task that was redriven as the same or a later generation.

    Plain Celery's retries are other messages under the same id.
    """
    return letter.ref is not None and letter.generation <= redriven.get(letter.identity, -1)


def _again(letter: DeadLetter) -> Redriven:
    return Redriven(letter=letter, outcome="skipped", why="another dead letter of its task was just met")


def _age(letter: DeadLetter) -> tuple[float, int]:
    return letter.first_at or letter.failed_at, letter.offset or 0


def _chunks(letters: list[DeadLetter], size: int) -> Iterator[list[DeadLetter]]:
    waiting = iter(letters)
    while chunk := list(islice(waiting, size)):
        yield chunk


def _sleep_until(moment: float, look: Look, sleep: Callable[[float], None]) -> None:
    while (left := moment - time.monotonic()) > 0:
        sleep(min(left, NAP))
        look.walk.extend()
