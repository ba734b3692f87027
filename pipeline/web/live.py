"""The live state: fifty who watch cost what one does, a service that is away costs its own part only."""

import asyncio
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from config.settings import Settings
from pipeline.deadletters import Filter
from pipeline.errors import ServiceUnavailableError
from pipeline.health.probe import Probe
from pipeline.health.reports import UNHEALTHY, Report
from pipeline.health.shared import Shared
from pipeline.jobs import Job, PartPage
from pipeline.monitoring.stages import StageStats
from pipeline.registry import Registry
from pipeline.web.letters import Letters
from pipeline.web.model import Away, JobDetail, JobFilter, JobList, LetterDetail, LetterList, PipelineView
from pipeline.web.pipelineview import away_since, pipeline_view
from pipeline.web.views import Views

#: Seconds that what was read is given to all who ask.
LIFETIME = 2.0

#: Seconds that dead letters are kept: looking at them hides them from others meanwhile.
LETTERS_LIFETIME = 10.0

#: Seconds that a read, and an action, are waited for.
READ_TIMEOUT, LETTERS_TIMEOUT, ACTION_TIMEOUT = 5.0, 20.0, 60.0

#: Different things that may be read at once.
AT_ONCE = 32

T = TypeVar("T")


class Live:
    """What pages and API await. Used from one event loop, which it never blocks: reads are on threads.

    All but ``pipeline`` raise a ServiceError when what they rest on is away, or slow.
    """

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        probes: Mapping[str, Probe],
        stats: StageStats,
        views: Views,
        letters: Letters,
    ) -> None:
        """``probes``: those of the health endpoints, by their names."""
        self._settings = settings
        self._registry = registry
        self._probes = probes
        self._stats = stats
        self._views = views
        self._letters = letters
        self._kept: dict[tuple[Hashable, ...], Shared[Any]] = {}
        #: Since when each service is away.
        self._since: dict[str, float] = {}

    # ─── Looking ───

    async def pipeline(self) -> PipelineView:
        """All stages, topics and queues as they are now. Never raises."""
        reports = await asyncio.gather(*(probe.report() for probe in self._probes.values()))
        named: dict[str, Report] = dict(zip(self._probes, reports, strict=True))
        away = away_since(named, self._since, time.time())
        self._since = {each.service: each.since for each in away}
        return pipeline_view(self._settings, self._registry, named, self._stats.snapshot(), away)

    async def jobs(self, wanted: JobFilter, before: str | None = None, limit: int = 50) -> JobList:
        """A page of jobs, newest submission first; see ``Views.jobs``."""
        return await self._shared(
            ("jobs", wanted, before, limit), lambda: self._views.jobs(wanted, before, limit)
        )

    async def job(self, job_id: str) -> JobDetail | None:
        """A job with its stages and failures; None when there is no such job."""
        return await self._shared(("job", job_id), lambda: self._views.job(job_id))

    async def record(self, job_id: str) -> Job | None:
        """A job's own record, which costs one read; None when there is no such job."""
        return await self._shared(("record", job_id), lambda: self._views.record(job_id))

    async def parts(
        self, job_id: str, stage: str, after: int | None = None, limit: int = 100
    ) -> PartPage | None:
        """A page of a split's parts, by ordinal; None when there is no such job, or no split of it yet."""
        return await self._shared(
            ("parts", job_id, stage, after, limit), lambda: self._views.parts(job_id, stage, after, limit)
        )

    async def letters(self, wanted: Filter) -> LetterList:
        """Dead letters, newest first: those that a look of a few seconds finds.

        Brokers that are known to be away are not asked once more: that would take longer than anybody waits.
        """
        kafka = await self._probes["kafka"].report()
        if kafka["status"] != UNHEALTHY or wanted.place == "sqs":
            return await self._found(wanted)
        away = Away(service="Kafka", error=kafka["error"], since=self._since.get("Kafka", time.time()))
        if wanted.place is not None:
            return LetterList(rows=(), complete=True, unseen=0, away=[away], taken_at=time.time())
        found = await self._found(replace(wanted, place="sqs"))
        return replace(found, away=[away, *found.away])

    async def _found(self, wanted: Filter) -> LetterList:
        return await self._shared(
            ("letters", wanted), lambda: self._letters.find(wanted), LETTERS_LIFETIME, LETTERS_TIMEOUT
        )

    async def letter(self, letter_id: str) -> LetterDetail | None:
        """One dead letter, by its id or that of its task; None when there is none."""
        return await self._shared(
            ("letter", letter_id),
            lambda: self._letters.show(letter_id),
            LETTERS_LIFETIME,
            LETTERS_TIMEOUT,
        )

    # ─── Acting ───

    async def act(self, action: Callable[[], T]) -> T:
        """Run one of the ``Actions`` on a thread; afterwards everything is read anew."""
        try:
            return await Shared("web-action", action, timeout=ACTION_TIMEOUT, lifetime=0).get()
        except TimeoutError as error:
            raise ServiceUnavailableError(
                f"It takes longer than {ACTION_TIMEOUT:g} s, and goes on. Look what became of it in a minute."
            ) from error
        finally:
            self._kept.clear()

    async def _shared(
        self,
        key: tuple[Hashable, ...],
        read: Callable[[], T],
        lifetime: float | None = None,
        timeout: float | None = None,
    ) -> T:
        """What was read a moment ago, or is being read, or is read now."""
        shared: Shared[T] | None = self._kept.get(key)
        if shared is None or not shared.is_fresh:
            if sum(each.is_under_way for each in self._kept.values()) >= AT_ONCE:
                raise ServiceUnavailableError("Too much is asked for at once. Try again soon.")
            shared = Shared(
                f"web-{key[0]}",
                read,
                timeout=READ_TIMEOUT if timeout is None else timeout,
                lifetime=LIFETIME if lifetime is None else lifetime,
            )
            self._kept = {each: kept for each, kept in self._kept.items() if kept.is_fresh} | {key: shared}
        try:
            return await shared.get()
        except TimeoutError as error:
            raise ServiceUnavailableError("The services did not answer in time. Try again soon.") from error
