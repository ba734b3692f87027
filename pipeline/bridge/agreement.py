"""The agreement of a service's bridges: which version of the stages new jobs belong to (ADR 20)."""

import threading
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from typing import Self

import structlog

from pipeline.author.registry import Registry
from pipeline.bridge.knownplans import KnownPlans
from pipeline.errors import ConfigurationError, ServiceError
from pipeline.jobs import JobStore
from pipeline.jobs.deployments import ANNOUNCE_EVERY, Deployment, Deployments, current, deployment_id
from pipeline.settings import Settings
from pipeline.sqs import SqsQueue, sqs_client
from pipeline.sqs.queues import queue_attributes
from pipeline.wire.plans import Route

log = structlog.get_logger(__name__)

#: How many tasks are on a queue, by its name; 0 for one that does not exist.
DepthOf = Callable[[str], int]


class Agreement:
    """Announces this bridge's stages every few seconds, and keeps ``plans`` as the deployments have them."""

    def __init__(
        self,
        routes: Iterable[Route],
        deployments: Deployments,
        task_queue: str,
        depth_of: DepthOf,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``task_queue``: the name of the queue of stages that name none."""
        self._routes = tuple(replace(route, queue=route.queue or task_queue) for route in routes)
        self._id = deployment_id(self._routes)
        self._deployments = deployments
        self._depth_of = depth_of
        self._clock = clock
        self._first_at = 0.0
        self._followed = self._id
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep_announcing, name="bridge-agreement", daemon=True)
        self.plans = KnownPlans(self._routes)

    @classmethod
    def make(cls, settings: Settings, registry: Registry) -> Self:
        """Return the agreement of a service's bridge."""
        client = sqs_client(settings)

        def depth_of(name: str) -> int:
            if queue_attributes(client, settings.queue_url(name)) is None:
                return 0
            depth = SqsQueue(client, settings.queue_url(name)).depth()
            return depth.available + depth.in_flight + depth.delayed

        return cls(registry.routes, JobStore(settings).deployments, settings.task_queue, depth_of)

    def start(self) -> None:
        """Refuse a queue that cannot be changed now; announce this deployment, and go on doing so.

        Raises ConfigurationError, or the ServiceError of a table or queue that cannot be asked.
        """
        others = [each for each in self._deployments.all() if each.id != self._id]
        for other in others:
            self._check_queues(other)
        self._first_at = self._deployments.first_seen(self._routes)
        self.announce()
        self._thread.start()

    def topics(self, settings: Settings, existing: Collection[str]) -> tuple[str, ...]:
        """Return the logical topics to subscribe to: this deployment's, and those left behind by others.

        ``existing``: the topics on Kafka; one that was left behind may be gone.
        """
        own = {route.consumes for route in self._routes}
        return tuple(name for name in self.plans.topics if name in own or settings.topic(name) in existing)

    def close(self) -> None:
        """Stop announcing."""
        self._ended.set()

    def announce(self) -> None:
        """Announce this bridge once, and follow the current deployment."""
        self._deployments.announce(self._routes, self._first_at)
        known = self._deployments.all()
        followed = current(known, self._clock())
        if followed is None:
            return
        self.plans.follow(followed.routes, [each.routes for each in known if each.id != followed.id])
        if followed.id != self._followed:
            log.info("bridge.deployment", followed=followed.id, own=self._id)
            self._followed = followed.id

    def _keep_announcing(self) -> None:
        while not self._ended.wait(ANNOUNCE_EVERY):
            try:
                self.announce()
            except ServiceError as error:
                # The plans stay as they were: a job is followed by its record where they are behind.
                log.warning("bridge.not_announced", error=str(error))

    def _check_queues(self, other: Deployment) -> None:
        before = {route.name: route for route in other.routes}
        for route in self._routes:
            old = before.get(route.name)
            if not (old and old.ordered and route.ordered and old.queue and old.queue != route.queue):
                continue
            live, waiting = other.is_live(self._clock()), self._depth_of(old.queue)
            if live or waiting:
                why = "a bridge that sends to it runs" if live else f"{waiting} tasks wait on it"
                raise ConfigurationError(
                    f"Stage {route.name!r} is ordered and its queue changed from {old.queue} to "
                    f"{route.queue}, but {why}: tasks on two queues have no order. Stop the bridges, let the "
                    f"workers empty {old.queue}, then start the bridges; or give it its old queue back."
                )
