"""The jobs page and its API as one: all that their routes use, made once a server."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from config.settings import Settings
from pipeline.health.probe import Probe
from pipeline.jobs import JobStore
from pipeline.monitoring.stages import StageStats
from pipeline.registry import Registry
from pipeline.web.access import Access
from pipeline.web.actions import Actions
from pipeline.web.letters import Letters
from pipeline.web.live import Live
from pipeline.web.views import Views


@dataclass(frozen=True, kw_only=True)
class Site:
    """What the routes of pages and API are made with."""

    settings: Settings
    registry: Registry
    access: Access
    live: Live
    actions: Actions
    #: Rates, run times and workers, once it was started.
    stats: StageStats

    @classmethod
    def make(cls, settings: Settings, registry: Registry, probes: Mapping[str, Probe]) -> Self:
        """``probes`` are those of the server's health endpoints: the page and they share what they read."""
        store = JobStore(settings)
        letters = Letters(settings)
        stats = StageStats(settings)
        return cls(
            settings=settings,
            registry=registry,
            access=Access(settings),
            live=Live(settings, registry, probes, stats, Views(settings, store), letters),
            actions=Actions(settings, registry, store, letters),
            stats=stats,
        )

    def start(self) -> None:
        """Begin to listen to what workers say. Returns at once."""
        self.stats.start()

    def close(self) -> None:
        """Listen no more, and send what actions have on its way to Kafka."""
        self.stats.stop()
        self.actions.close()
