"""The run of consumers on records of topics of others: timed, and named where a run takes long."""

import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import structlog

from pipeline.author.consumers import Consumer
from pipeline.kafka import ReceivedRecord
from pipeline.settings import Settings
from pipeline.telemetry import metrics
from pipeline.wire.events import Event

log = structlog.get_logger(__name__)

#: Seconds after which a run is named as slow: a thousand times what a run may take at a thousand records a
#: second. The bridge takes nothing else meanwhile.
SLOW_SECONDS = 1.0

#: Seconds between two log lines about a run that has not ended. Before the bridge counts as stuck
#: (``pulse.STUCK_AFTER``), and long before its group does without it (five minutes).
STUCK_EVERY = 30.0


class Consuming:
    """Runs the consumers of a service, one at a time. Of the bridge's thread; a watch looks on."""

    def __init__(
        self,
        settings: Settings,
        consumers: Iterable[Consumer[Any, Any]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._service = settings.service_name
        self._clock = clock
        self._by_topic: dict[str, list[Consumer[Any, Any]]] = {}
        for consumer in consumers:
            self._by_topic.setdefault(settings.topic_of_others(consumer.topic), []).append(consumer)
            metrics.CONSUMER_SECONDS.labels(consumer.name)
            metrics.CONSUMER_SLOW.labels(consumer.name)
            metrics.RECORDS_PASSED_OVER.labels(consumer.name)
        #: The run under way: when it began, and its consumer and record.
        self._run: tuple[float, Consumer[Any, Any], ReceivedRecord] | None = None
        self._ended = threading.Event()
        self._watch = threading.Thread(target=self._look_on, name="bridge-consumers", daemon=True)

    @property
    def topics(self) -> tuple[str, ...]:
        """The Kafka topics of others that are read."""
        return tuple(self._by_topic)

    def consumers_of(self, record: ReceivedRecord) -> list[Consumer[Any, Any]]:
        """Return the consumers of a record; of a tombstone those that ask for it."""
        consumers = self._by_topic[record.topic]
        return [each for each in consumers if record.value is not None or each.tombstones]

    def start(self) -> None:
        """Start the watch, if there is anything to watch."""
        if self._by_topic:
            self._watch.start()

    def close(self) -> None:
        """End the watch."""
        self._ended.set()

    def run(self, consumer: Consumer[Any, Any], record: ReceivedRecord, event: Event) -> list[Event]:
        """Return the events that a consumer makes of a record; ``event``: what the record says itself.

        Raises whatever the function raises.
        """
        began = self._clock()
        self._run = began, consumer, record
        try:
            made = consumer.make_events(self._service, event, key=record.key, headers=record.headers)
        finally:
            self._run = None
            seconds = self._clock() - began
            metrics.CONSUMER_SECONDS.labels(consumer.name).observe(seconds)
            if seconds > SLOW_SECONDS:
                metrics.CONSUMER_SLOW.labels(consumer.name).inc()
                log.warning("consumer.slow", seconds=round(seconds, 3), **_place(consumer, record))
        if not made:
            metrics.RECORDS_PASSED_OVER.labels(consumer.name).inc()
        return made

    def running(self) -> str | None:
        """Return which run has not ended, and for how long it goes on; None without one."""
        run = self._run
        if run is None:
            return None
        began, consumer, record = run
        place = f"{record.topic}[{record.partition}] at offset {record.offset}"
        return f"consumer {consumer.name} has run for {self._clock() - began:.0f} s on {place}"

    def _look_on(self) -> None:
        while not self._ended.wait(STUCK_EVERY):
            run = self._run
            if run is not None and (seconds := self._clock() - run[0]) >= STUCK_EVERY:
                log.error("consumer.stuck", seconds=round(seconds), **_place(*run[1:]))


def fed_by(settings: Settings, consumers: Iterable[Consumer[Any, Any]]) -> dict[str, set[str]]:
    """Return by Kafka topic of others the logical topics whose stages take what consumers make of it."""
    fed: dict[str, set[str]] = {}
    for consumer in consumers:
        fed.setdefault(settings.topic_of_others(consumer.topic), set()).add(consumer.emits)
    return fed


def _place(consumer: Consumer[Any, Any], record: ReceivedRecord) -> dict[str, Any]:
    return {
        "consumer": consumer.name,
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
    }
