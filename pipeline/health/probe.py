"""One report for all who ask: made on a thread, kept for a second, waited for a few seconds at most."""

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

import structlog

from pipeline.health.reports import Report, unhealthy

log = structlog.get_logger(__name__)

#: Seconds a report is waited for. Load balancers give a health check five.
TIMEOUT = 4.0

#: Seconds a report is given to whoever asks next, so that many probes cost what one does.
LIFETIME = 1.0


class Probe:
    """Makes a report when asked. Used from one event loop, which it never blocks.

    A dependency that hangs costs one thread, however often it is asked for.
    """

    def __init__(
        self, name: str, make: Callable[[], Report], *, timeout: float = TIMEOUT, lifetime: float = LIFETIME
    ) -> None:
        self._name = name
        self._make = make
        self._timeout = timeout
        self._lifetime = lifetime
        self._latest: Future[Report] | None = None
        self._made_at = 0.0

    async def report(self) -> Report:
        """The report: a new one, or that of less than a second ago. Never raises."""
        waiting = asyncio.shield(asyncio.wrap_future(self._current()))
        try:
            return await asyncio.wait_for(waiting, self._timeout)
        except TimeoutError:
            return unhealthy(f"{self._name} did not answer within {self._timeout:g} s")

    def _current(self) -> "Future[Report]":
        latest = self._latest
        if latest and (not latest.done() or time.monotonic() - self._made_at < self._lifetime):
            return latest
        self._latest = Future()
        # A daemon: an interpreter that ends must not wait for a dependency that does not answer.
        threading.Thread(
            target=self._run, args=(self._latest,), name=f"health-{self._name}", daemon=True
        ).start()
        return self._latest

    def _run(self, future: "Future[Report]") -> None:
        try:
            report = self._make()
        except Exception as error:
            # What is not this project's own message may hold anything: it goes to the log only.
            log.exception("health.failed", dependency=self._name)
            report = unhealthy(f"{self._name} could not be asked: {type(error).__name__}; the log has more")
        self._made_at = time.monotonic()
        future.set_result(report)
