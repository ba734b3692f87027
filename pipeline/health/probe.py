"""One report for all who ask: it comes in time, whatever the dependency does, and is never an exception."""

from collections.abc import Callable

import structlog

from pipeline.health.reports import Report, unhealthy
from pipeline.health.shared import Shared

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
        self._shared = Shared(f"health-{name}", self._report, timeout=timeout, lifetime=lifetime)

    async def report(self) -> Report:
        """The report: a new one, or that of less than a second ago. Never raises."""
        try:
            return await self._shared.get()
        except TimeoutError:
            return unhealthy(f"{self._name} did not answer within {self._timeout:g} s")

    def _report(self) -> Report:
        try:
            return self._make()
        except Exception as error:
            # What is not this project's own message may hold anything: it goes to the log only.
            log.exception("health.failed", dependency=self._name)
            return unhealthy(f"{self._name} could not be asked: {type(error).__name__}; the log has more")
