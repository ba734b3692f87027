"""The site: everything that the routes of pages and API use, made once a server."""

from dataclasses import dataclass
from typing import Any, Self

from pipeline.author.registry import Registry
from pipeline.jobs import JobStore
from pipeline.observe.brokerconnections import LIMITED, connections_of
from pipeline.observe.guard import Actor
from pipeline.observe.probe import Probes
from pipeline.observe.stagestats import StageStats
from pipeline.settings import Settings
from pipeline.telemetry import metrics
from pipeline.web.access import Access, log_action
from pipeline.web.actions import Action, Actions
from pipeline.web.letters import Letters
from pipeline.web.live import Live
from pipeline.web.requests import ActionRequest
from pipeline.web.views import Views


@dataclass(frozen=True, kw_only=True)
class Site:
    """The parts of one server."""

    settings: Settings
    registry: Registry
    access: Access
    live: Live
    actions: Actions
    #: Rates, run times and workers, once started.
    stats: StageStats

    @classmethod
    def make(cls, settings: Settings, registry: Registry, probes: Probes) -> Self:
        """Return a site that shares the reads of the server's health endpoints (``probes``)."""
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

    async def perform(self, action: Action[Any, Any], request: ActionRequest, actor: Actor) -> Any:
        """Log and run an action of the table; return its result."""
        log_action(actor, action.name, **request.log_fields())
        return await self.live.act(lambda: action.run(self.actions, request))

    def start(self) -> None:
        """Start to read the events of workers. Returns at once."""
        self.stats.start()
        if self.settings.kafka_sasl_mechanism == LIMITED:
            metrics.at_scrape("connections", self._show_connections)

    def close(self) -> None:
        """Stop to read events, and send unacknowledged records of actions."""
        self.stats.stop()
        self.actions.close()

    def _show_connections(self) -> None:
        # Bridges are few, and send no heartbeats.
        metrics.BROKER_CONNECTIONS.set(connections_of(self.stats.snapshot().online, bridges=0))
