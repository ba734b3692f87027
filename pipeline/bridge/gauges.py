"""Gauges of a bridge: what it holds and how far behind it is, set when its metrics are read."""

from collections.abc import Iterable, Mapping

from pipeline.bridge.offsets import OffsetTracker
from pipeline.bridge.throttle import BufferUsage
from pipeline.kafka import Partition
from pipeline.telemetry import metrics


class Gauges:
    """Reads what the bridge counts anyway; only ``note`` runs in the bridge's own loop."""

    def __init__(
        self, tracker: OffsetTracker, usage: BufferUsage, topics: Iterable[str], *, ages: bool
    ) -> None:
        """``ages``: show how old uncommitted events are, where age means that they are late."""
        self._tracker = tracker
        self._usage = usage
        self._ages = ages
        self._lag: Mapping[Partition, int] = {}
        for topic in topics:
            # From 0 on: the first one is an increase.
            metrics.EVENTS_POLLED.labels(topic)
            metrics.EVENTS_REJECTED.labels(topic)
            metrics.EVENTS_EXPIRED.labels(topic)
            metrics.PARTITIONS_STUCK.labels(topic)
            metrics.TOMBSTONES.labels(topic)

    def note(self, lag: Mapping[Partition, int]) -> None:
        """Keep the number of events of each partition that are still to be read."""
        self._lag = lag

    def show(self) -> None:
        """Set the gauges; partitions that were given away disappear."""
        events, size = self._usage.held()
        metrics.EVENTS_HELD.set(events)
        metrics.EVENT_BYTES_HELD.set(size)
        metrics.UNCOMMITTED.clear()
        metrics.UNCOMMITTED_SECONDS.clear()
        metrics.PARTITION_LAG.clear()
        lag = self._lag
        for partition in self._tracker.partitions():
            labels = partition.topic, str(partition.number)
            metrics.UNCOMMITTED.labels(*labels).set(self._tracker.span(partition))
            if self._ages:
                metrics.UNCOMMITTED_SECONDS.labels(*labels).set(self._tracker.age(partition))
            if partition in lag:
                metrics.PARTITION_LAG.labels(*labels).set(lag[partition])
