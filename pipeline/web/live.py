"""Cached reads for pages and API: many readers share one read, and an outage affects its own part only."""

import time
from collections.abc import Callable, Hashable
from dataclasses import replace
from typing import Any, TypeVar

from pipeline.author.registry import Registry
from pipeline.deadletters import Filter
from pipeline.errors import ServiceError, ServiceUnavailableError
from pipeline.jobs import PartPage
from pipeline.observe.probe import Probes, Shared
from pipeline.observe.stagestats import StageStats
from pipeline.schedules.status import ScheduleStatus
from pipeline.settings import Settings
from pipeline.web.letters import Letters
from pipeline.web.model import JobDetail, JobFilter, JobList, LetterDetail, LetterList, PipelineView
from pipeline.web.views import Views, pipeline_view, unreachable

#: Seconds that a read is cached.
LIFETIME = 2.0

#: Seconds that dead letters are cached: a search hides them from others meanwhile.
LETTERS_LIFETIME = 10.0

#: Seconds that schedules are cached.
SCHEDULES_LIFETIME = 10.0

#: Seconds to wait for a read, a search for dead letters, and an action.
READ_TIMEOUT, LETTERS_TIMEOUT, ACTION_TIMEOUT = 5.0, 20.0, 60.0

#: Maximum concurrent reads.
AT_ONCE = 32

T = TypeVar("T")


class Live:
    """The reads of pages and API, for one event loop, which they do not block: they run on threads.

    All but ``pipeline`` raise a ServiceError when a service they need is down or slow.
    """

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        probes: Probes,
        stats: StageStats,
        views: Views,
        letters: Letters,
    ) -> None:
        """``probes``: those of the health endpoints."""
        self._settings = settings
        self._registry = registry
        self._probes = probes
        self._stats = stats
        self._views = views
        self._letters = letters
        self._cache: dict[tuple[Hashable, ...], Shared[Any]] = {}

    # ─── Reads ───

    async def pipeline(self) -> PipelineView:
        """Return all stages, topics and queues as they are now. Never raises."""
        health = await self._probes.report()
        schedules = [] if health.dynamodb.status == "unhealthy" else await self._schedules()
        return pipeline_view(self._settings, self._registry, health, self._stats.snapshot(), schedules)

    async def _schedules(self) -> list[ScheduleStatus]:
        """Return the schedules; none while they cannot be read, which the health report says."""
        try:
            return await self._cached(("schedules",), self._views.schedules, SCHEDULES_LIFETIME)
        except ServiceError:
            return []

    async def jobs(self, wanted: JobFilter, before: str | None = None, limit: int = 50) -> JobList:
        """Return a page of jobs, newest first; see ``Views.jobs``."""
        return await self._cached(
            ("jobs", wanted, before, limit), lambda: self._views.jobs(wanted, before, limit)
        )

    async def job(self, job_id: str) -> JobDetail | None:
        """Return a job with its stages and failures; None for an unknown id."""
        return await self._cached(("job", job_id), lambda: self._views.job(job_id))

    async def job_ids(self, prefix: str) -> list[str]:
        """Return the ids of jobs that start with a text; see ``Views.job_ids``."""
        return await self._cached(("ids", prefix), lambda: self._views.job_ids(prefix))

    async def parts(
        self, job_id: str, stage: str, after: int | None = None, limit: int = 100
    ) -> PartPage | None:
        """Return a page of a split's parts, by ordinal; None without such a job, or before its split."""
        return await self._cached(
            ("parts", job_id, stage, after, limit), lambda: self._views.parts(job_id, stage, after, limit)
        )

    async def letters(self, wanted: Filter) -> LetterList:
        """Return dead letters, newest first: those that a search of a few seconds finds.

        Brokers that are known to be down are not asked again: that takes too long for a page.
        """
        kafka = await self._probes.kafka.report()
        if kafka.status != "unhealthy" or wanted.place == "sqs":
            return await self._search(wanted)
        away = unreachable("Kafka", kafka)
        if wanted.place is not None:
            return LetterList(rows=(), complete=True, unseen=0, away=away, taken_at=time.time())
        found = await self._search(replace(wanted, place="sqs"))
        return replace(found, away=[*away, *found.away])

    async def _search(self, wanted: Filter) -> LetterList:
        return await self._cached(
            ("letters", wanted), lambda: self._letters.find(wanted), LETTERS_LIFETIME, LETTERS_TIMEOUT
        )

    async def letter(self, letter_id: str) -> LetterDetail | None:
        """Return one dead letter by its id or that of its task; None if unknown."""
        return await self._cached(
            ("letter", letter_id),
            lambda: self._letters.show(letter_id),
            LETTERS_LIFETIME,
            LETTERS_TIMEOUT,
        )

    # ─── Actions ───

    async def act(self, action: Callable[[], T]) -> T:
        """Run an action on a thread, and empty the cache."""
        try:
            return await Shared("web-action", action, timeout=ACTION_TIMEOUT, lifetime=0).get()
        except TimeoutError as error:
            raise ServiceUnavailableError(
                f"The action runs longer than {ACTION_TIMEOUT:g} s. Look for its result in a minute."
            ) from error
        finally:
            self._cache.clear()

    async def _cached(
        self,
        key: tuple[Hashable, ...],
        read: Callable[[], T],
        lifetime: float | None = None,
        timeout: float | None = None,
    ) -> T:
        """Return the cached value, join the read under way, or start one."""
        shared: Shared[T] | None = self._cache.get(key)
        if shared is None or not shared.is_fresh:
            if sum(each.is_under_way for each in self._cache.values()) >= AT_ONCE:
                raise ServiceUnavailableError("Too many different requests at once. Try again in a moment.")
            shared = Shared(
                f"web-{key[0]}",
                read,
                timeout=READ_TIMEOUT if timeout is None else timeout,
                lifetime=LIFETIME if lifetime is None else lifetime,
            )
            self._cache = {each: kept for each, kept in self._cache.items() if kept.is_fresh} | {key: shared}
        try:
            return await shared.get()
        except TimeoutError as error:
            raise ServiceUnavailableError(
                "The services did not answer in time. Try again in a moment."
            ) from error
