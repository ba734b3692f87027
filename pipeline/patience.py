"""Patience: ask a service again, with the same ids, until it answers for every item."""

import random
import threading
import time
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
        wait = _Wait(what, self._stop)
        while left:
            answers = call([items[at] for at in left])
            for at, error in zip(left, answers, strict=True):
                results[at] = error
            left = [at for at in left if isinstance(results[at], ServiceUnavailableError)]
            if left:
                wait.pause(len(left), results[left[0]])
        wait.end()
        return results

    def one(self, what: str, call: Callable[[], T]) -> T:
        """Call until it does not raise ``ServiceUnavailableError``; what it returns."""
        wait = _Wait(what, self._stop)
        while True:
            try:
                answer = call()
            except ServiceUnavailableError as error:
                wait.pause(1, error)
            else:
                wait.end()
                return answer


class _Wait:
    """The tries of one call, and what the log says of them."""

    def __init__(self, what: str, stop: threading.Event) -> None:
        self._what = what
        self._stop = stop
        self._since = time.monotonic()
        self._failures = 0
        self._pause = FIRST_PAUSE

    def pause(self, waiting: int, error: Exception | None) -> None:
        """It was not answered: wait a little longer than the last time."""
        self._failures += 1
        if self._failures == 2:  # in a row: not a passing one
            log.warning("service.unanswered", step=self._what, waiting=waiting, error=str(error))
        if self._stop.wait(random.uniform(0, self._pause)):  # noqa: S311 - jitter
            raise Abandoned
        self._pause = min(2 * self._pause, LONGEST_PAUSE)

    def end(self) -> None:
        """It was answered."""
        if self._failures >= 2:
            seconds = round(time.monotonic() - self._since, 1)
            log.warning("service.answered", step=self._what, seconds=seconds)


def raise_first(errors: Sequence[Exception | None]) -> None:
    """Raise the first error there is, if any."""
    for error in errors:
        if error is not None:
            raise error
