"""Depths of the queues that a bridge fills, and the topics that feed one that is too deep.

Stages on one queue share its fate: every topic that feeds it is paused with it. A topic that feeds several
queues is paused when one of them is too deep, because an event's offset is committed only when all of its
tasks are sent.
"""

import threading
from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType

import structlog

from pipeline.bridge.knownplans import KnownPlans
from pipeline.errors import ServiceError
from pipeline.settings import Settings
from pipeline.sqs import SqsQueue
from pipeline.telemetry import metrics

log = structlog.get_logger(__name__)

#: Messages waiting and in flight in a FIFO queue. Above 120,000 in flight, SQS shows no other group.
MAX_DEPTH = 100_000

#: The share of it at which a queue is no longer too deep, so that its topics do not flutter.
SHALLOW_AT = 0.5

#: Seconds between two requests for the depth of the queues.
DEPTH_EVERY = 10.0


class QueueDepths:
    """Asks for the depths on a thread of its own. Any thread may read ``deep_topics``."""

    def __init__(
        self,
        settings: Settings,
        plans: KnownPlans,
        queue_named: Callable[[str], SqsQueue],
        fed: Mapping[str, Collection[str]] = MappingProxyType({}),
    ) -> None:
        """``queue_named`` returns a queue by its name. All deployments in ``plans`` count.

        ``fed``: by Kafka topic of others, the logical topics whose stages take what consumers make of it.
        """
        self._fed = fed
        self._settings = settings
        self._plans = plans
        self._queue_named = queue_named
        self._deep: frozenset[str] = frozenset()
        #: The Kafka topics that feed a queue that is too deep; replaced as a whole.
        self.deep_topics: frozenset[str] = frozenset()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="bridge-depth", daemon=True)

    def start(self) -> None:
        """Begin to ask for the depths."""
        self._thread.start()

    def close(self) -> None:
        """Stop asking."""
        self._closed.set()

    def measure(self) -> None:
        """Ask every queue how deep it is."""
        feeds = self._feeds()
        new: dict[str, int] = {}
        self._deep = frozenset(name for name in set().union(*feeds.values()) if self._is_deep(name, new))
        self.deep_topics = frozenset(topic for topic, queues in feeds.items() if queues & self._deep)
        for topic in feeds:
            metrics.TOPIC_PAUSED.labels(topic).set(topic in self.deep_topics)
        for name, messages in new.items():
            topics = sorted(topic for topic, queues in feeds.items() if name in queues)
            log.warning("bridge.queue_deep", queue=name, messages=messages, topics=topics)

    def _feeds(self) -> Mapping[str, frozenset[str]]:
        """Return the names of the queues that each Kafka topic feeds."""
        task_queue = self._settings.task_queue
        queues = {
            topic: frozenset(name or task_queue for name in names)
            for topic, names in self._plans.queues().items()
        }
        return {self._settings.topic(topic): names for topic, names in queues.items()} | {
            topic: frozenset().union(*(queues.get(name, ()) for name in names))
            for topic, names in self._fed.items()
        }

    def _is_deep(self, name: str, new: dict[str, int]) -> bool:
        """Whether a queue is too deep; add its messages to ``new`` if it was not before."""
        was = name in self._deep
        try:
            depth = self._queue_named(name).depth()
        except ServiceError as error:
            # Only a guard: sending meets the same error, and decides.
            log.warning("bridge.depth_unknown", queue=name, error=str(error))
            return was
        messages = depth.available + depth.in_flight
        if was:
            return messages > MAX_DEPTH * SHALLOW_AT
        if messages < MAX_DEPTH:
            return False
        new[name] = messages
        return True

    def _watch(self) -> None:
        while not self._closed.is_set():
            try:
                self.measure()
            except Exception:
                # It must go on: a queue that was deep would pause its topics for ever.
                log.exception("bridge.depth_failed")
            self._closed.wait(DEPTH_EVERY)
