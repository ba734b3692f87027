"""Least-privilege IAM policies: what each process does with the queues, table and topics of its service.

The actions are those of the calls that the doors make (a batch call needs the action of the single one), on
exactly the resources that the settings and the stages name.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

from config.settings import DLQ_TOPIC, ERRORS_TOPIC, JOBS_TOPIC, Settings
from pipeline.arns import Arns, arns_of
from pipeline.errors import ConfigurationError
from pipeline.jobs.table import INDEX
from pipeline.registry import Registry
from pipeline.topology import queue_needs, topic_needs

#: "operator": a person or a deployment that runs the commands of ``pipeline``.
Role = Literal["bridge", "worker", "operator"]
ROLES: tuple[Role, ...] = get_args(Role)

Policy = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class _Needs:
    """Actions by what they are done to."""

    task_queues: frozenset[str]
    dead_letters: frozenset[str]
    table: frozenset[str]
    index: frozenset[str] = frozenset()


def _of(service: str, actions: str) -> frozenset[str]:
    return frozenset(f"{service}:{action}" for action in actions.split())


#: What a start looks at, and makes where AUTO_PROVISION is true.
_LOOK_QUEUE, _MAKE_QUEUE = _of("sqs", "GetQueueAttributes"), _of("sqs", "CreateQueue")
#: To go through dead letters, to put them back with a reason, and to remove them.
_LETTERS = _of("sqs", "ChangeMessageVisibility DeleteMessage ReceiveMessage SendMessage")
_LOOK_TABLE = _of("dynamodb", "DescribeTable DescribeTimeToLive")
_MAKE_TABLE = _of("dynamodb", "CreateTable UpdateTimeToLive")

_NEEDS: dict[Role, _Needs] = {
    "bridge": _Needs(
        task_queues=_LOOK_QUEUE | _of("sqs", "SendMessage"),
        # Beside its own work it sweeps: it explains dead letters that SQS moved, and looks for open jobs.
        dead_letters=_LOOK_QUEUE | _LETTERS,
        table=_LOOK_TABLE
        | _of("dynamodb", "BatchGetItem BatchWriteItem GetItem PartiQLInsert Query UpdateItem"),
        index=_of("dynamodb", "Query"),
    ),
    "worker": _Needs(
        task_queues=_LOOK_QUEUE
        | _of("sqs", "ChangeMessageVisibility DeleteMessage ReceiveMessage SendMessage"),
        dead_letters=_LOOK_QUEUE | _of("sqs", "SendMessage"),
        table=_LOOK_TABLE
        | _of("dynamodb", "BatchGetItem BatchWriteItem GetItem PartiQLInsert PutItem Query UpdateItem"),
    ),
    "operator": _Needs(
        task_queues=_LOOK_QUEUE
        | _MAKE_QUEUE
        | _of("sqs", "PurgeQueue ReceiveMessage SendMessage SetQueueAttributes"),
        dead_letters=_LOOK_QUEUE | _MAKE_QUEUE | _LETTERS | _of("sqs", "SetQueueAttributes"),
        table=_LOOK_TABLE
        | _MAKE_TABLE
        | _of("dynamodb", "BatchGetItem BatchWriteItem GetItem PartiQLInsert Query UpdateItem UpdateTable"),
        index=_of("dynamodb", "Query"),
    ),
}


def policy(settings: Settings, registry: Registry, role: Role) -> Policy:
    """The policy document for a process. With AUTO_PROVISION=false bridge and worker may make nothing.

    Raises ConfigurationError where the settings do not tell an ARN.
    """
    arns, needs = arns_of(settings), _NEEDS[role]
    makes = settings.auto_provision and role != "operator"
    dead_letters, *queues = queue_needs(settings, registry)
    statements = [
        _statement(
            "TaskQueues",
            needs.task_queues | (_MAKE_QUEUE if makes else frozenset()),
            (arns.queue(need.url) for need in queues),
        ),
        _statement(
            "DeadLetterQueue",
            needs.dead_letters | (_MAKE_QUEUE if makes else frozenset()),
            [arns.queue(dead_letters.url)],
        ),
        _statement(
            "Jobs",
            needs.table | (_MAKE_TABLE if makes else frozenset()),
            [arns.table(settings.dynamodb_table)],
        ),
    ]
    if needs.index:
        statements.append(_statement("JobsByTime", needs.index, [arns.index(settings.dynamodb_table, INDEX)]))
    if settings.kafka_sasl_mechanism == "AWS_MSK_IAM":
        statements += _kafka(settings, registry, role, arns)
    return {"Version": "2012-10-17", "Statement": statements}


def _kafka(settings: Settings, registry: Registry, role: Role, arns: Arns) -> Iterator[Policy]:
    """What MSK's own access control asks for; its actions are Kafka's operations by other names."""
    if not arns.cluster_arn:
        raise ConfigurationError("KAFKA_SASL_MECHANISM=AWS_MSK_IAM: set MSK_CLUSTER_ARN to name its topics.")
    topics = _Topics(settings, registry)
    every = [need.name for need in topic_needs(settings, registry)]
    yield _kafka_statement("KafkaCluster", "Connect WriteDataIdempotently", [arns.cluster_arn])
    yield _kafka_statement("KafkaTopics", _TOPICS[role], map(arns.topic, every))
    if settings.auto_provision and role != "operator":
        yield _kafka_statement("KafkaMissingTopics", "CreateTopic", map(arns.topic, every))
    yield _kafka_statement("KafkaRead", "ReadData", map(arns.topic, topics.read(role)))
    yield _kafka_statement("KafkaWrite", "WriteData", map(arns.topic, topics.written(role)))
    if role == "bridge":
        group = arns.group(settings.kafka_consumer_group)
        yield _kafka_statement("KafkaGroup", "AlterGroup", [group])
    yield _kafka_statement("KafkaGroups", "DescribeGroup", map(arns.group, _groups(settings, role)))


#: Of every topic: existence and offsets; the operator also makes, compares and changes them.
_TOPICS: dict[Role, str] = {
    "bridge": "DescribeTopic",
    "worker": "DescribeTopic",
    "operator": "AlterTopic AlterTopicDynamicConfiguration CreateTopic DescribeTopic "
    "DescribeTopicDynamicConfiguration",
}


def _groups(settings: Settings, role: Role) -> list[str]:
    """Groups that are asked about: for its lag the service's own; those that readers name and never join."""
    name = settings.service_name
    readers: dict[Role, list[str]] = {
        "bridge": [f"{name}-scan"],
        "worker": [f"{name}.control"],
        "operator": [f"{name}.control", f"{name}-peek", f"{name}-scan"],
    }
    return [settings.kafka_consumer_group, *readers[role]]


class _Topics:
    """Which topics each process reads and writes."""

    def __init__(self, settings: Settings, registry: Registry) -> None:
        self._name = settings.topic
        self._consumed = registry.consumed_topics
        self._emitted = [stage.emits for stage in registry.by_name.values() if stage.emits]
        self._events, self._commands, self._replies = settings.control_topics
        self._every = [need.name for need in topic_needs(settings, registry)]

    def read(self, role: Role) -> list[str]:
        if role == "bridge":
            return self._names((*self._consumed, DLQ_TOPIC))
        return [self._commands] if role == "worker" else self._every

    def written(self, role: Role) -> list[str]:
        ends = (ERRORS_TOPIC, JOBS_TOPIC)
        if role == "bridge":
            return self._names((*ends, DLQ_TOPIC))
        if role == "worker":
            return [*self._names((*self._emitted, *ends)), self._events, self._replies]
        # Submissions, redriven events and their marks, what a sweep tells, commands to workers.
        return [*self._names((*self._consumed, *ends, DLQ_TOPIC)), self._commands]

    def _names(self, topics: Iterable[str]) -> list[str]:
        return list(map(self._name, topics))


def _kafka_statement(sid: str, actions: str, resources: Iterable[str]) -> Policy:
    return _statement(sid, _of("kafka-cluster", actions), resources)


def _statement(sid: str, actions: Iterable[str], resources: Iterable[str]) -> Policy:
    return {
        "Sid": sid,
        "Effect": "Allow",
        "Action": sorted(actions),
        "Resource": sorted(set(resources)),
    }
