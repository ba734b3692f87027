"""What a service needs around it: topics and queues, with the configuration each must have."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from config.settings import DLQ_TOPIC, ERRORS_TOPIC, JOBS_TOPIC, Settings, topic_variable
from pipeline.errors import ConfigurationError
from pipeline.registry import Registry
from pipeline.sqs import MAX_MESSAGE_BYTES, QUEUE_RETENTION

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS

#: Errors are looked into long after the fact.
ERRORS_RETENTION_MS = 30 * DAY_MS

#: What was revoked: for as long as Celery itself remembers it (celery.worker.state.REVOKE_EXPIRES).
REVOKES_RETENTION_MS = 3 * HOUR_MS

#: Bytes of the largest event: Kafka's own default, and about what an SQS message holds.
EVENT_BYTES = 1_048_588

#: An error event holds an original event and why it failed, so it must be allowed to be larger than one;
#: else the way out of a failure would fail itself.
ERROR_BYTES = 8 * 1024 * 1024

#: The highest maxReceiveCount that SQS takes.
MAX_RECEIVE_COUNT = 1000

#: What of a topic's configuration may be more than is needed: it keeps records longer, takes larger ones, or
#: has them on more brokers before it says so.
_AT_LEAST = ("retention.ms", "max.message.bytes", "min.insync.replicas")

#: Attributes of a queue that exist or not when it is made, and cannot be changed.
FIFO = "FifoQueue"


@dataclass(frozen=True, kw_only=True)
class TopicNeed:
    """A topic that must be there."""

    name: str
    partitions: int
    replication: int
    config: Mapping[str, str]
    #: The ordered stages that read it: their order rests on which partition a key is on.
    ordered: tuple[str, ...] = ()

    def lacking(self, present: Mapping[str, str], replication: int) -> dict[str, str]:
        """What a topic's configuration lacks, with the values it needs; more than that is as good.

        As long as there are too few replicas, how many must be in sync is not asked for: it would keep the
        topic from taking anything.
        """
        asked = dict(self.config)
        if replication < self.replication:
            asked.pop("min.insync.replicas", None)
        return {key: value for key, value in asked.items() if not _topic_has(present.get(key), key, value)}


@dataclass(frozen=True, kw_only=True)
class QueueNeed:
    """A queue that must be there."""

    url: str
    #: Under SQS's own names, without RedrivePolicy, which needs the dead-letter queue's ARN.
    attributes: Mapping[str, str] = field(default_factory=dict)
    #: Deliveries after which SQS itself moves a message to the dead-letter queue; 0 for that queue.
    max_receive_count: int = 0

    @property
    def name(self) -> str:
        """The last part of the URL."""
        return self.url.rsplit("/", 1)[1]

    def lacking(self, present: Mapping[str, str]) -> dict[str, str]:
        """What a queue's attributes lack, with the values they need; of a number more is as good.

        What is not given is not judged: emulators leave out what they do not act on, SQS itself gives all.
        """
        return {
            key: value
            for key, value in self.attributes.items()
            if key in present and not _queue_has(present[key], value)
        }


def check_topics(settings: Settings, registry: Registry) -> None:
    """Refuse two topics of a service under one Kafka name: each would be read as the other.

    An error event would become a task, which fails and makes an error event, for ever; or what one stage
    emits would pass by the next.
    """
    names: dict[str, str] = {}
    for name in (*registry.topics, ERRORS_TOPIC, DLQ_TOPIC, JOBS_TOPIC, *settings.control_names):
        topic = settings.topic(name)
        other = names.setdefault(topic, name)
        if other != name:
            raise ConfigurationError(
                f"The topics {other} ({topic_variable(other)}) and {name} ({topic_variable(name)}) are both "
                f"{topic} on Kafka: what is written to one would be read as the other. Set one of these "
                "variables to a topic of its own."
            )


def topic_needs(settings: Settings, registry: Registry) -> list[TopicNeed]:
    """Every topic of a service: its stages', those for failures and ends of jobs, the control plane's.

    Raises ConfigurationError where two of them are one.
    """
    check_topics(settings, registry)
    retention = int(settings.topic_retention_days * DAY_MS)
    needs = [
        _topic(settings, name, retention, ordered=_ordered_readers(registry, name))
        for name in (*registry.topics, JOBS_TOPIC)
    ]
    needs += [
        _topic(settings, name, ERRORS_RETENTION_MS, largest=ERROR_BYTES) for name in (ERRORS_TOPIC, DLQ_TOPIC)
    ]
    return needs + _control_topics(settings)


def queue_needs(settings: Settings, registry: Registry) -> list[QueueNeed]:
    """Every queue of a service: the dead-letter queue first, the others point to it."""
    dead_letters = QueueNeed(url=settings.sqs_dlq_url, attributes=_attributes(settings, registry))
    queues: dict[str, list[int]] = {settings.task_queue: [settings.max_retries]}
    for stage in registry.by_name.values():
        retries = settings.max_retries if stage.retries is None else stage.retries
        queues.setdefault(stage.queue or settings.task_queue, []).append(retries)
    return [dead_letters] + [_task_queue(settings, registry, name, max(r)) for name, r in queues.items()]


def _topic_has(present: str | None, key: str, value: str) -> bool:
    if present is None or present == value:
        return present == value
    if key == "compression.type":
        # As it comes from the producers, which compress with snappy.
        return present == "producer"
    # -1: for ever.
    return key in _AT_LEAST and (int(present) >= int(value) or int(present) == -1)


def _queue_has(present: str, value: str) -> bool:
    return int(present) >= int(value) if value.isdigit() else present == value


def _ordered_readers(registry: Registry, topic: str) -> tuple[str, ...]:
    return tuple(stage.name for stage in registry.consumers(topic) if stage.ordered)


def _topic(
    settings: Settings,
    name: str,
    retention_ms: int,
    *,
    largest: int = EVENT_BYTES,
    ordered: Iterable[str] = (),
) -> TopicNeed:
    return TopicNeed(
        name=settings.topic(name),
        partitions=settings.topic_partitions,
        replication=settings.topic_replication_factor,
        config=_config(settings, retention_ms) | {"max.message.bytes": str(largest)},
        ordered=tuple(ordered),
    )


def _control_topics(settings: Settings) -> list[TopicNeed]:
    """Events as long as Flower looks back, commands as long as a worker that starts does."""
    events, commands, replies = settings.control_topics
    history_ms = math.ceil(settings.events_history_seconds * 1000)
    return [
        _control_topic(settings, events, max(HOUR_MS, history_ms)),
        _control_topic(settings, commands, REVOKES_RETENTION_MS),
        _control_topic(settings, replies, HOUR_MS),
    ]


def _control_topic(settings: Settings, name: str, retention_ms: int) -> TopicNeed:
    """One partition: one order, and every reader reads all of it anyway."""
    return TopicNeed(
        name=name,
        partitions=1,
        replication=settings.topic_replication_factor,
        # Retention removes whole segments, which would otherwise grow for a week.
        config=_config(settings, retention_ms) | {"segment.ms": str(HOUR_MS // 6)},
    )


def _config(settings: Settings, retention_ms: int) -> dict[str, str]:
    config = {
        "cleanup.policy": "delete",
        "compression.type": "snappy",
        "retention.ms": str(retention_ms),
    }
    if settings.topic_replication_factor >= 3:
        # With acks=all: what is acknowledged is on two brokers, and one may be away.
        config["min.insync.replicas"] = "2"
    return config


def _task_queue(settings: Settings, registry: Registry, name: str, retries: int) -> QueueNeed:
    # Followers of a failing head are received with it, so their count rises without a fault of theirs:
    # five after four failures of the head. SQS is the backstop only; attempts are counted by record.
    needed = 10 * (retries + 1) + 20
    if needed > MAX_RECEIVE_COUNT:
        most = (MAX_RECEIVE_COUNT - 20) // 10 - 1
        raise ConfigurationError(
            f"{retries} retries on queue {name} need a maxReceiveCount of {needed}, SQS takes at most "
            f"{MAX_RECEIVE_COUNT}: lower MAX_RETRIES or the stage's retries to {most}."
        )
    url = settings.queue_url(name)
    if url == settings.sqs_dlq_url:
        raise ConfigurationError(f"A stage's queue is {name}, which is SQS_DLQ_URL. Give it another queue.")
    return QueueNeed(url=url, attributes=_attributes(settings, registry), max_receive_count=needed)


def _attributes(settings: Settings, registry: Registry) -> dict[str, str]:
    limits = [stage.time_limit for stage in registry.by_name.values() if stage.time_limit]
    return {
        "ContentBasedDeduplication": "false",
        # High throughput: limits count for each message group, not for the queue.
        "DeduplicationScope": "messageGroup",
        "FifoThroughputLimit": "perMessageGroupId",
        # What senders reckon with. Queues made before August 2025, or by Terraform's default, take a quarter.
        "MaximumMessageSize": str(MAX_MESSAGE_BYTES),
        "MessageRetentionPeriod": str(QUEUE_RETENTION),
        "ReceiveMessageWaitTimeSeconds": str(settings.sqs_wait_time_seconds),
        # The longest run. The worker asks for less at each receive and extends what it holds; this is for
        # any other consumer.
        "VisibilityTimeout": str(math.ceil(max([settings.task_time_limit, *limits]))),
    }
