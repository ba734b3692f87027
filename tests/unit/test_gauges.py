"""A bridge's gauges count what it holds of its current partitions."""

from pipeline.bridge.gauges import Gauges
from pipeline.bridge.offsets import OffsetTracker
from pipeline.bridge.throttle import BufferUsage
from pipeline.kafka import Partition
from pipeline.telemetry import metrics

MINE, OTHER = Partition("letters", 0), Partition("letters", 1)


def _shown(name: str) -> dict[str, float]:
    """By partition, or "" for a gauge without."""
    return {
        sample.labels.get("partition", ""): sample.value
        for family in metrics.REGISTRY.collect()
        for sample in family.samples
        if sample.name == name
    }


def test_they_follow_the_bridge() -> None:
    """Held, uncommitted, unread: and nothing of a partition that was given away."""
    now = [0.0]
    tracker, usage = OffsetTracker(lambda: now[0]), BufferUsage()
    gauges = Gauges(tracker, usage, [], ages=True)
    tracker.assign([MINE, OTHER])
    for offset in range(3):
        assert tracker.take(MINE, offset)
        usage.add(100)
    gauges.note({MINE: 7, OTHER: 2})
    now[0] = 90.0
    gauges.show()
    assert _shown("pipeline_events_held") == {"": 3}
    assert _shown("pipeline_event_bytes_held") == {"": 300}
    assert _shown("pipeline_uncommitted_events") == {"0": 3, "1": 0}
    assert _shown("pipeline_uncommitted_seconds") == {"0": 90, "1": 0}
    assert _shown("pipeline_partition_lag") == {"0": 7, "1": 2}
    tracker.revoke([OTHER])
    gauges.show()
    assert _shown("pipeline_uncommitted_events") == {"0": 3}
    assert _shown("pipeline_uncommitted_seconds") == {"0": 90}
    assert _shown("pipeline_partition_lag") == {"0": 7}
    tracker.revoke([MINE])
    gauges.show()
    assert _shown("pipeline_partition_lag") == {}


def test_an_event_at_work_here_is_not_late() -> None:
    """Where the bridge runs the stages an event is as old as they take: no age that an alert asks for."""
    tracker = OffsetTracker()
    tracker.assign([MINE])
    assert tracker.take(MINE, 0)
    Gauges(tracker, BufferUsage(), [], ages=False).show()
    assert _shown("pipeline_uncommitted_events") == {"0": 1}
    assert _shown("pipeline_uncommitted_seconds") == {}


def test_the_counters_of_a_topic_are_there_before_it_has_an_event() -> None:
    """Prometheus sees no increase in what begins with the first one."""
    Gauges(OffsetTracker(), BufferUsage(), ["never-read"], ages=True)
    for name in ("pipeline_events_polled_total", "pipeline_events_rejected_total"):
        assert f'{name}{{topic="never-read"}} 0.0' in metrics.exposition().decode()
