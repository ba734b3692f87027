"""Traffic: the tasks on the queues and the events on the topics of a service."""

import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from pipeline.author.registry import Registry
from pipeline.infra.needs import consumed_topics, feeding
from pipeline.kafka import GroupOffsets, Partition
from pipeline.settings import Settings
from pipeline.sqs import SqsQueue, sqs_client


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """Numbers of tasks and events in progress; SQS counts a minute behind."""

    #: Tasks that wait or run, by the queue's name.
    tasks: Mapping[str, int]
    #: Events that the bridge has not committed, by Kafka topic.
    events: Mapping[str, int]
    #: By partition, the next offset that the bridges will read, and the next one to be written.
    positions: Mapping[Partition, tuple[int, int]]
    #: No position is older (seconds, monotonic).
    read_at: float

    def of(self, settings: Settings, registry: Registry, stages: Iterable[str]) -> str:
        """Describe the tasks and events that may be of some stages; empty without any."""
        known = [registry.by_name[stage] for stage in stages if stage in registry.by_name]
        queues = {stage.queue or settings.task_queue for stage in known}
        topics = {topic for stage in known for topic in feeding(settings, registry, stage.consumes)}
        words = [f"{count:,} tasks on {name}" for name in sorted(queues) if (count := self.tasks.get(name))]
        words += [
            f"{count:,} events on {name}" for name in sorted(topics) if (count := self.events.get(name))
        ]
        return ", ".join(words)

    def ends(self) -> Mapping[Partition, int]:
        """Return the next offset to be written, by partition."""
        return {partition: end for partition, (_, end) in self.positions.items()}

    def is_past(self, ends: Mapping[Partition, int], topics: Collection[str]) -> bool:
        """Whether the bridges have made tasks of all events before ``ends`` of these topics."""
        return all(
            partition in self.positions and self.positions[partition][0] >= end
            for partition, end in ends.items()
            if partition.topic in topics
        )


def read_traffic(settings: Settings, registry: Registry) -> Traffic:
    """Read topics, queues, then topics again: an entry that moves in between is counted at least once."""
    before = _lag(_positions(settings, registry))
    tasks = _tasks(settings, registry)
    read_at = time.monotonic()
    positions = _positions(settings, registry)
    return Traffic(tasks=tasks, events=before | _lag(positions), positions=positions, read_at=read_at)


def _tasks(settings: Settings, registry: Registry) -> Mapping[str, int]:
    client = sqs_client(settings)
    names = {settings.task_queue} | {stage.queue for stage in registry.by_name.values() if stage.queue}
    depths = {name: SqsQueue(client, settings.queue_url(name)).depth() for name in names}
    return {name: depth.available + depth.in_flight + depth.delayed for name, depth in depths.items()}


def _positions(settings: Settings, registry: Registry) -> Mapping[Partition, tuple[int, int]]:
    offsets = GroupOffsets(settings, settings.kafka_consumer_group)
    try:
        return offsets.positions(consumed_topics(settings, registry))
    finally:
        offsets.close()


def _lag(positions: Mapping[Partition, tuple[int, int]]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for partition, (committed, end) in positions.items():
        counts[partition.topic] += max(0, end - committed)
    return counts
