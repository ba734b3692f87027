"""Patience: ask a service again, with the same ids, until it answers for every item."""

import random
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

import structlog

from pipeline.errors import ServiceUnavailableError

log = structlog.get_logger(__name__)

T = TypeVar("T")

#: The first and the longest pause between tries (seconds); each doubles, with full jitter.
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0


class Abandoned(Exception):  # noqa: N818 - a decision, not an error
    """The process is stopping and will not wait longer; redelivery repairs what is left."""


class Patience:
    """Waits for services that work may not go on without. One for a process; threads share it."""

    def __init__(self) -> None:
        self._stop = threading.Event()

    def end(self) -> None:
        """Wait no longer: what is unanswered raises ``Abandoned``."""
        self._stop.set()

    def each(
        self, what: str, items: Sequence[T], call: Callable[[list[T]], Sequence[Exception | None]]
    ) -> list[Exception | None]:
        """Call with ``items``, then with those unanswered, until none is left.

        Returns for each item None or the error that asking again would not change.
        """
        results: list[Exception | None] = [None] * len(items)
        left = list(range(len(items)))
        tries = 0
        while left:
            answers = call([items[at] for at in left])
            for at, error in zip(left, answers, strict=True):
                results[at] = error
            left = [at for at in left if isinstance(results[at], ServiceUnavailableError)]
            if left:
                self._pause(what, tries, len(left), results[left[0]])
            tries += 1
        return results

    def one(self, what: str, call: Callable[[], T]) -> T:
        """Call until it does not raise ``ServiceUnavailableError``; what it returns."""
        tries = 0
        while True:
            try:
                return call()
            except ServiceUnavailableError as error:
                self._pause(what, tries, 1, error)
                tries += 1

    def _pause(self, what: str, tries: int, waiting: int, error: Exception | None) -> None:
        if tries == 1:  # the second failure in a row: not a passing one
            log.warning("service.unanswered", step=what, waiting=waiting, error=str(error))
        seconds = random.uniform(0, min(LONGEST_PAUSE, FIRST_PAUSE * 2**tries))  # noqa: S311 - jitter
        if self._stop.wait(seconds):
            raise Abandoned


def raise_first(errors: Sequence[Exception | None]) -> None:
    """Raise the first error there is, if any."""
    for error in errors:
        if error is not None:
            raise error
