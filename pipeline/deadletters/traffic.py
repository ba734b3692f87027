"""Traffic: the tasks on the queues and the events on the topics of a service."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pipeline.author.registry import Registry
from pipeline.kafka import GroupOffsets
from pipeline.settings import Settings
from pipeline.sqs import SqsQueue, sqs_client


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """Numbers of tasks and events in progress; SQS counts a minute behind."""

    #: Tasks that wait or run, by the queue's name.
    tasks: Mapping[str, int]
    #: Events that the bridge has not committed, by Kafka topic.
    events: Mapping[str, int]

    def of(self, settings: Settings, registry: Registry, stages: Iterable[str]) -> str:
        """Describe the tasks and events that may be of some stages; empty without any."""
        known = [registry.by_name[stage] for stage in stages if stage in registry.by_name]
        queues = {stage.queue or settings.task_queue for stage in known}
        topics = {settings.topic(stage.consumes) for stage in known}
        words = [f"{count:,} tasks on {name}" for name in sorted(queues) if (count := self.tasks.get(name))]
        words += [
            f"{count:,} events on {name}" for name in sorted(topics) if (count := self.events.get(name))
        ]
        return ", ".join(words)


def read_traffic(settings: Settings, registry: Registry) -> Traffic:
    """Read topics, queues, then topics again: an entry that moves in between is counted at least once."""
    before = _events(settings, registry)
    tasks = _tasks(settings, registry)
    after = _events(settings, registry)
    return Traffic(tasks=tasks, events=before | after)


def _tasks(settings: Settings, registry: Registry) -> Mapping[str, int]:
    client = sqs_client(settings)
    names = {settings.task_queue} | {stage.queue for stage in registry.by_name.values() if stage.queue}
    depths = {name: SqsQueue(client, settings.queue_url(name)).depth() for name in names}
    return {name: depth.available + depth.in_flight + depth.delayed for name, depth in depths.items()}


def _events(settings: Settings, registry: Registry) -> Counter[str]:
    topics = [settings.topic(name) for name in registry.consumed_topics]
    counts: Counter[str] = Counter()
    offsets = GroupOffsets(settings, settings.kafka_consumer_group)
    try:
        for partition, lag in offsets.lag(topics).items():
            counts[partition.topic] += lag
    finally:
        offsets.close()
    return counts
