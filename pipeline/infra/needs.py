"""The needs of a service: its topics, queues and table, with the configuration that each must have."""

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from pipeline.author.registry import Registry
from pipeline.errors import ConfigurationError
from pipeline.jobs.schema import TTL, table_definition
from pipeline.settings import (
    DLQ_TOPIC,
    ERRORS_TOPIC,
    JOBS_TOPIC,
    Settings,
    topic_variable,
)
from pipeline.sqs import MAX_MESSAGE_BYTES, QUEUE_RETENTION

#: The processes of a service. "web": the jobs page with its actions; "web-read-only": the same with
#: WEB_READ_ONLY=true. "operator": a person or a deployment that runs the commands of ``pipeline``.
Role = Literal["bridge", "worker", "web", "web-read-only", "operator"]
ROLES: tuple[Role, ...] = get_args(Role)

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS

#: Errors are often investigated long after they happened.
ERRORS_RETENTION_MS = 30 * DAY_MS

#: Revocations are kept as long as Celery itself remembers them (celery.worker.state.REVOKE_EXPIRES).
REVOKES_RETENTION_MS = 3 * HOUR_MS

#: Bytes of the largest event: Kafka's own default, and about what an SQS message holds.
EVENT_BYTES = 1_048_588

#: An error event holds an original event and the reason of its failure, so its limit must be higher than an
#: event's: otherwise the report of a failure would itself fail.
ERROR_BYTES = 8 * 1024 * 1024

#: The highest maxReceiveCount that SQS accepts.
MAX_RECEIVE_COUNT = 1000


@dataclass(frozen=True, kw_only=True)
class TopicNeed:
    """A topic that must exist."""

    name: str
    partitions: int
    replication: int
    config: Mapping[str, str]
    #: The ordered stages that consume it: their order depends on which partition a key is in.
    ordered: tuple[str, ...] = ()
    #: The processes that read it, and those that write to it.
    read_by: frozenset[Role] = frozenset()
    written_by: frozenset[Role] = frozenset()


@dataclass(frozen=True, kw_only=True)
class QueueNeed:
    """A FIFO queue that must exist."""

    url: str
    #: Under SQS's own names, without RedrivePolicy, which needs the dead-letter queue's ARN.
    attributes: Mapping[str, str]
    #: Whether its policy must deny requests without TLS. A service of this machine has no TLS.
    tls_only: bool
    #: Deliveries after which SQS itself moves a message to the dead-letter queue; 0 for that queue.
    max_receive_count: int = 0

    @property
    def name(self) -> str:
        """The last part of the URL."""
        return self.url.rsplit("/", 1)[1]

    @property
    def is_dead_letter_queue(self) -> bool:
        """Whether the other queues send their dead letters to it."""
        return self.max_receive_count == 0


@dataclass(frozen=True, kw_only=True)
class TableNeed:
    """The DynamoDB table of jobs."""

    name: str
    #: The arguments of CreateTable.
    definition: Mapping[str, Any]
    #: The attribute that holds an item's time to live.
    expiry: str
    #: The key of KMS that encrypts it; None: DynamoDB's own, which always does.
    key: str | None


def check_topics(settings: Settings, registry: Registry) -> None:
    """Raise ConfigurationError if two topics of a service have one name on Kafka.

    An error event would become a task, which fails and makes an error event, and so on; or a stage would
    never see the events of the one before it.
    """
    names: dict[str, str] = {}
    own = (*registry.topics, ERRORS_TOPIC, DLQ_TOPIC, JOBS_TOPIC, *settings.control_names)
    others = registry.topics_of_others
    for name, topic in (
        *((name, settings.topic(name)) for name in own),
        *((name, settings.topic_of_others(name)) for name in others),
    ):
        other = names.setdefault(topic, name)
        if other != name:
            raise ConfigurationError(
                f"The topics {other} ({topic_variable(other)}) and {name} ({topic_variable(name)}) are both "
                f"{topic} on Kafka: what is written to one would be read as the other. Set one of these "
                "variables to a topic of its own."
            )


def topic_needs(settings: Settings, registry: Registry) -> list[TopicNeed]:
    """Return every topic of a service: stages', failures', ends of jobs, and the control plane's.

    Raises ConfigurationError if two of them have one name.
    """
    check_topics(settings, registry)
    retention = int(settings.topic_retention_days * DAY_MS)
    needs = [_stage_topic(settings, registry, name, retention) for name in registry.topics]
    needs += [
        _service_topic(
            settings,
            JOBS_TOPIC,
            retention,
            read_by=["operator"],
            written_by=["bridge", "worker", "web", "operator"],
        ),
        _service_topic(
            settings,
            ERRORS_TOPIC,
            ERRORS_RETENTION_MS,
            largest=ERROR_BYTES,
            read_by=["web", "web-read-only", "operator"],
            written_by=["bridge", "worker", "operator"],
        ),
        # The bridge's sweep marks dead letters that were redriven.
        _service_topic(
            settings,
            DLQ_TOPIC,
            ERRORS_RETENTION_MS,
            largest=ERROR_BYTES,
            read_by=["bridge", "web", "web-read-only", "operator"],
            written_by=["bridge", "web", "operator"],
        ),
    ]
    return needs + _control_topics(settings)


def consumed_topics(settings: Settings, registry: Registry) -> list[str]:
    """Return the names on Kafka of all topics that bridges consume: of stages, and of others."""
    own = [settings.topic(name) for name in registry.consumed_topics]
    return [*own, *topics_of_others(settings, registry)]


def feeding(settings: Settings, registry: Registry, topic: str) -> list[str]:
    """Return the names on Kafka of the topics that feed a logical one: itself, and those of its consumers."""
    others = [settings.topic_of_others(each.topic) for each in registry.consumers_to(topic)]
    return [settings.topic(topic), *dict.fromkeys(others)]


def topics_of_others(settings: Settings, registry: Registry) -> dict[str, tuple[str, ...]]:
    """Return the consumers of each topic of others, by its name on Kafka. Nothing makes these topics."""
    return {
        settings.topic_of_others(name): tuple(each.name for each in registry.consumers_on(name))
        for name in registry.topics_of_others
    }


def missing_topics(needs: Iterable[TopicNeed], existing: Collection[str]) -> list[str]:
    """Return the names of the needed topics that do not exist."""
    return [need.name for need in needs if need.name not in existing]


def queue_needs(settings: Settings, registry: Registry) -> list[QueueNeed]:
    """Return every queue of a service: the dead-letter queue first, as the others point to it."""
    attributes = _queue_attributes(settings, registry)
    retries: dict[str, int] = {settings.task_queue: settings.max_retries}
    for stage in registry.by_name.values():
        name = stage.queue or settings.task_queue
        own = settings.max_retries if stage.retries is None else stage.retries
        retries[name] = max(own, retries.get(name, 0))
    dead_letters = QueueNeed(
        url=settings.sqs_dlq_url, attributes=attributes, tls_only=_is_https(settings.sqs_dlq_url)
    )
    return [dead_letters, *(_task_queue(settings, name, most, attributes) for name, most in retries.items())]


def table_need(settings: Settings) -> TableNeed:
    """Return the table of jobs."""
    name = settings.dynamodb_table
    definition = table_definition(
        name,
        settings.dynamodb_warm_writes,
        by_entity=settings.dynamodb_entity_index_since is not None,
    )
    return TableNeed(name=name, definition=definition, expiry=TTL, key=settings.kms_key_arn)


def _stage_topic(settings: Settings, registry: Registry, name: str, retention_ms: int) -> TopicNeed:
    """Bridges read what stages consume, and write ticks; workers write what they emit; operators submit,
    redrive, replay.
    """
    is_consumed = name in registry.consumed_topics
    is_emitted = any(stage.emits == name for stage in registry.by_name.values())
    writers: tuple[tuple[Role, bool], ...] = (
        ("bridge", any(stage.consumes == name for stage in registry.scheduled)),
        ("worker", is_emitted),
        ("web", is_consumed),
        ("operator", is_consumed),
    )
    return TopicNeed(
        name=settings.topic(name),
        partitions=settings.topic_partitions,
        replication=settings.topic_replication_factor,
        config=_topic_config(settings, retention_ms) | {"max.message.bytes": str(EVENT_BYTES)},
        ordered=tuple(stage.name for stage in registry.stages_on(name) if stage.ordered),
        read_by=frozenset(["bridge", "web", "operator"] if is_consumed else ["operator"]),
        written_by=frozenset(role for role, writes in writers if writes),
    )


def _service_topic(
    settings: Settings,
    name: str,
    retention_ms: int,
    *,
    read_by: Iterable[Role],
    written_by: Iterable[Role],
    largest: int = EVENT_BYTES,
) -> TopicNeed:
    """Few partitions: no group of bridges shares them, and every reader of this project reads all."""
    return TopicNeed(
        name=settings.topic(name),
        partitions=settings.service_topic_partitions,
        replication=settings.topic_replication_factor,
        config=_topic_config(settings, retention_ms) | {"max.message.bytes": str(largest)},
        read_by=frozenset(read_by),
        written_by=frozenset(written_by),
    )


def _control_topics(settings: Settings) -> list[TopicNeed]:
    """Events are kept as long as Flower looks back, commands as long as a starting worker does."""
    events, commands, replies = settings.control_topics
    history_ms = math.ceil(settings.events_history_seconds * 1000)
    return [
        _control_topic(
            settings, events, max(HOUR_MS, history_ms), ["web", "web-read-only", "operator"], ["worker"]
        ),
        _control_topic(settings, commands, REVOKES_RETENTION_MS, ["worker", "operator"], ["operator"]),
        _control_topic(settings, replies, HOUR_MS, ["operator"], ["worker"]),
    ]


def _control_topic(
    settings: Settings, name: str, retention_ms: int, read_by: Iterable[Role], written_by: Iterable[Role]
) -> TopicNeed:
    """One partition: one order, and every reader reads all of it anyway."""
    return TopicNeed(
        name=name,
        partitions=1,
        replication=settings.topic_replication_factor,
        # Retention removes whole segments, which would otherwise grow for a week.
        config=_topic_config(settings, retention_ms) | {"segment.ms": str(HOUR_MS // 6)},
        read_by=frozenset(read_by),
        written_by=frozenset(written_by),
    )


def _topic_config(settings: Settings, retention_ms: int) -> dict[str, str]:
    config = {
        "cleanup.policy": "delete",
        "compression.type": "snappy",
        "retention.ms": str(retention_ms),
    }
    if settings.topic_replication_factor >= 3:
        # With acks=all: an acknowledged record is on two brokers, and one may be away.
        config["min.insync.replicas"] = "2"
    return config


def _task_queue(settings: Settings, name: str, retries: int, attributes: Mapping[str, str]) -> QueueNeed:
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
    return QueueNeed(url=url, attributes=attributes, tls_only=_is_https(url), max_receive_count=needed)


def _is_https(url: str) -> bool:
    return url.startswith("https://")


def _queue_attributes(settings: Settings, registry: Registry) -> dict[str, str]:
    limits = [stage.time_limit for stage in registry.by_name.values() if stage.time_limit]
    return {
        **_queue_encryption(settings),
        "ContentBasedDeduplication": "false",
        # High throughput: limits count for each message group, not for the queue.
        "DeduplicationScope": "messageGroup",
        "FifoThroughputLimit": "perMessageGroupId",
        # Senders rely on this size. Queues made before August 2025, or by Terraform's default, accept a
        # quarter of it.
        "MaximumMessageSize": str(MAX_MESSAGE_BYTES),
        "MessageRetentionPeriod": str(QUEUE_RETENTION),
        "ReceiveMessageWaitTimeSeconds": str(settings.sqs_wait_time_seconds),
        # The longest run. Workers ask for less at each receive and extend what they hold; this is for any
        # other consumer.
        "VisibilityTimeout": str(math.ceil(max([settings.task_time_limit, *limits]))),
    }


def _queue_encryption(settings: Settings) -> dict[str, str]:
    if settings.kms_key_arn:
        return {"KmsMasterKeyId": settings.kms_key_arn}
    return {"SqsManagedSseEnabled": "true"}
