"""Patience: repeats calls to a service that is away, with the same ids, until every item is answered."""

import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import structlog

from pipeline.errors import ServiceUnavailableError

log = structlog.get_logger(__name__)

T = TypeVar("T")
E = TypeVar("E", bound=Exception)

#: The first and the longest pause between tries (seconds); each doubles, with full jitter.
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0


class Abandoned(Exception):  # noqa: N818 - a decision, not an error
    """The process is stopping and waits no longer; redelivery repairs what is unfinished."""


class Patience:
    """Waits for services that work cannot go on without. One for a process; threads share it."""

    def __init__(self, *, waits: bool = True) -> None:
        """``waits`` False: ask once and answer with the outage, as for a person who can try again."""
        self._waits = waits
        self._stop = threading.Event()

    def end(self) -> None:
        """Wait no longer: every call that is still unanswered raises ``Abandoned``."""
        self._stop.set()

    def each(
        self, step: str, items: Sequence[T], call: Callable[[list[T]], Sequence[E | None]]
    ) -> list[E | None]:
        """Call with ``items``, then with the unanswered ones, until none is left.

        Return for each item None, or the error that trying again would not change. ``step`` names the call in
        the log.
        """
        results: list[E | None] = [None] * len(items)
        left = list(range(len(items)))
        wait = _Wait(step, self._stop)
        while left:
            answers = call([items[at] for at in left])
            for at, error in zip(left, answers, strict=True):
                results[at] = error
            left = [at for at in left if isinstance(results[at], ServiceUnavailableError)]
            if not self._waits:
                break
            if left:
                wait.pause(len(left), results[left[0]])
        wait.end()
        return results

    def one(self, step: str, call: Callable[[], T]) -> T:
        """Call until it does not raise ``ServiceUnavailableError``; return its result."""
        wait = _Wait(step, self._stop)
        while True:
            try:
                answer = call()
            except ServiceUnavailableError as error:
                if not self._waits:
                    raise
                wait.pause(1, error)
            else:
                wait.end()
                return answer


class _Wait:
    """The tries of one call, and their log lines."""

    def __init__(self, step: str, stop: threading.Event) -> None:
        self._step = step
        self._stop = stop
        self._since = time.monotonic()
        self._failures = 0
        self._pause = FIRST_PAUSE

    def pause(self, waiting: int, error: Exception | None) -> None:
        """Wait after a failed try, longer each time."""
        self._failures += 1
        if self._failures == 2:  # in a row: more than a passing failure
            log.warning("service.unanswered", step=self._step, waiting=waiting, error=str(error))
        if self._stop.wait(random.uniform(0, self._pause)):  # noqa: S311 - jitter
            raise Abandoned
        self._pause = min(2 * self._pause, LONGEST_PAUSE)

    def end(self) -> None:
        """Log the end of an outage that was logged."""
        if self._failures >= 2:
            seconds = round(time.monotonic() - self._since, 1)
            log.warning("service.answered", step=self._step, seconds=seconds)


def raise_first(errors: Sequence[Exception | None]) -> None:
    """Raise the first error there is, if any."""
    for error in errors:
        if error is not None:
            raise error
