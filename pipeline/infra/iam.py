"""Least-privilege IAM policies of the processes of a service.

The actions are those of the calls that this project makes (a batch call needs the action of the single one),
on exactly the queues, items and topics of the service. Services may share a table: a condition on the keys
grants each of them its own items only (ADR 22).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from pipeline.author.registry import Registry
from pipeline.errors import ConfigurationError
from pipeline.infra.arns import Arns, arns_of
from pipeline.infra.needs import Role, queue_needs, topic_needs, topics_of_others
from pipeline.jobs.keys import Keys
from pipeline.jobs.table import ENTITY_INDEX, INDEX
from pipeline.settings import Settings

Policy = dict[str, Any]


def _of(service: str, names: str) -> frozenset[str]:
    return frozenset(f"{service}:{action}" for action in names.split())


#: The calls of a start, and those that make what is missing where AUTO_PROVISION is true.
_READ_QUEUE, _MAKE_QUEUE = _of("sqs", "GetQueueAttributes"), _of("sqs", "CreateQueue")
#: List dead letters, put them back with a reason, and remove them.
_LETTERS = _of("sqs", "ChangeMessageVisibility DeleteMessage ReceiveMessage SendMessage")
_READ_TABLE = _of("dynamodb", "DescribeTable DescribeTimeToLive")
_MAKE_TABLE = _of("dynamodb", "CreateTable UpdateContinuousBackups UpdateTimeToLive")

#: Both services use the key for the caller. The list is DynamoDB's (developer guide, "Authorizing use of your
#: customer managed key") and holds that of SQS; a table that takes the key makes a grant.
_USE_KEY = _of("kms", "Decrypt DescribeKey Encrypt GenerateDataKey ReEncryptFrom ReEncryptTo")
_GIVE_KEY = _of("kms", "CreateGrant")

_READ_ITEMS = _of("dynamodb", "BatchGetItem GetItem Query")
_WRITE_ITEMS = _of("dynamodb", "BatchWriteItem PartiQLInsert UpdateItem")
#: Close jobs and splits that are filled.
_CLOSE = _of("dynamodb", "PartiQLUpdate")
_READ_INDEX = _of("dynamodb", "Query")

_READ_OBJECTS, _WRITE_OBJECTS = _of("s3", "GetObject"), _of("s3", "PutObject")
#: Look whether the bucket is there. Without it S3 answers "denied" for an object that is gone.
_LIST_BUCKET = _of("s3", "ListBucket")
_MAKE_BUCKET = _of(
    "s3",
    "CreateBucket GetBucketPolicy GetBucketPublicAccessBlock GetEncryptionConfiguration "
    "GetLifecycleConfiguration PutBucketPolicy PutBucketPublicAccessBlock PutEncryptionConfiguration "
    "PutLifecycleConfiguration",
)


@dataclass(frozen=True, kw_only=True)
class _Actions:
    """The actions of one role by resource."""

    task_queues: frozenset[str]
    dead_letters: frozenset[str]
    items: frozenset[str]
    index: frozenset[str] = frozenset()
    #: The table itself, which has no owner among the services that share it.
    table: frozenset[str] = _READ_TABLE
    #: The service's own objects, and the data of the events of services that share the bucket.
    objects: frozenset[str] = frozenset()
    events: frozenset[str] = frozenset()
    bucket: frozenset[str] = _LIST_BUCKET


_ACTIONS: dict[Role, _Actions] = {
    "bridge": _Actions(
        task_queues=_READ_QUEUE | _of("sqs", "SendMessage"),
        # Its sweep explains dead letters that SQS moved, and mends open jobs.
        dead_letters=_READ_QUEUE | _LETTERS,
        items=_READ_ITEMS | _WRITE_ITEMS | _CLOSE,
        index=_READ_INDEX,
        objects=_WRITE_OBJECTS,
    ),
    "worker": _Actions(
        task_queues=_READ_QUEUE
        | _of("sqs", "ChangeMessageVisibility DeleteMessage ReceiveMessage SendMessage"),
        dead_letters=_READ_QUEUE | _of("sqs", "SendMessage"),
        items=_READ_ITEMS | _WRITE_ITEMS | _CLOSE | _of("dynamodb", "PutItem"),
        objects=_READ_OBJECTS | _WRITE_OBJECTS,
        events=_READ_OBJECTS,
    ),
    "web": _Actions(
        task_queues=_READ_QUEUE | _of("sqs", "SendMessage"),
        dead_letters=_READ_QUEUE | _of("sqs", "ChangeMessageVisibility DeleteMessage ReceiveMessage"),
        items=_READ_ITEMS | _WRITE_ITEMS,
        index=_READ_INDEX,
        objects=_WRITE_OBJECTS,
    ),
    "web-read-only": _Actions(
        task_queues=_READ_QUEUE,
        # A look at a queue receives its messages, and makes them visible again.
        dead_letters=_READ_QUEUE | _of("sqs", "ChangeMessageVisibility ReceiveMessage"),
        items=_READ_ITEMS,
        index=_READ_INDEX,
    ),
    "operator": _Actions(
        task_queues=_READ_QUEUE
        | _MAKE_QUEUE
        | _of("sqs", "PurgeQueue ReceiveMessage SendMessage SetQueueAttributes"),
        dead_letters=_READ_QUEUE | _MAKE_QUEUE | _LETTERS | _of("sqs", "SetQueueAttributes"),
        items=_READ_ITEMS | _WRITE_ITEMS | _CLOSE,
        index=_READ_INDEX,
        table=_READ_TABLE | _MAKE_TABLE | _of("dynamodb", "DescribeContinuousBackups UpdateTable"),
        objects=_READ_OBJECTS | _WRITE_OBJECTS,
        events=_READ_OBJECTS,
        bucket=_LIST_BUCKET | _MAKE_BUCKET,
    ),
}

#: The processes that make what is missing when they start, if AUTO_PROVISION allows it.
_MAKERS: frozenset[Role] = frozenset({"bridge", "worker"})


def policy(settings: Settings, registry: Registry, role: Role) -> Policy:
    """Return the policy document of a role. With AUTO_PROVISION=false bridge and worker may make nothing.

    Raises ConfigurationError if an ARN does not follow from the settings.
    """
    arns, actions = arns_of(settings), _ACTIONS[role]
    makes = _makes(settings, role)
    dead_letters, *queues = queue_needs(settings, registry)
    statements = [
        _statement(
            "TaskQueues",
            actions.task_queues | (_MAKE_QUEUE if makes else frozenset()),
            (arns.queue(need.url) for need in queues),
        ),
        _statement(
            "DeadLetterQueue",
            actions.dead_letters | (_MAKE_QUEUE if makes else frozenset()),
            [arns.queue(dead_letters.url)],
        ),
        _statement(
            "JobsTable",
            actions.table | (_MAKE_TABLE if makes else frozenset()),
            [arns.table(settings.dynamodb_table)],
        ),
        _own_items(settings, "Jobs", actions.items, arns.table(settings.dynamodb_table)),
    ]
    if actions.index:
        index = arns.index(settings.dynamodb_table, INDEX)
        statements.append(_own_items(settings, "JobsByTime", actions.index, index))
    if actions.index and settings.dynamodb_entity_index_since:
        index = arns.index(settings.dynamodb_table, ENTITY_INDEX)
        statements.append(_own_items(settings, "JobsByEntity", actions.index, index))
    if settings.payload_bucket is not None:
        statements += _payloads(settings, settings.payload_bucket, role, arns)
    if settings.kms_key_arn:
        gives = makes or role == "operator"
        services = ["dynamodb", *(["s3"] if settings.payload_bucket else []), "sqs"]
        use = _USE_KEY | (_GIVE_KEY if gives else frozenset())
        statements.append(_key(settings.kms_key_arn, arns, use, services))
    if settings.kafka_sasl_mechanism == "AWS_MSK_IAM":
        statements += _kafka(settings, registry, role, arns)
    return {"Version": "2012-10-17", "Statement": statements}


def _makes(settings: Settings, role: Role) -> bool:
    return settings.auto_provision and role in _MAKERS


def _own_items(settings: Settings, sid: str, actions: Iterable[str], resource: str) -> Policy:
    """Return a statement about the items whose partition key, in table or index, is this service's."""
    condition = {
        "ForAllValues:StringLike": {
            "dynamodb:LeadingKeys": [f"{Keys(service=settings.service_name).prefix}*"]
        },
        # "ForAllValues" holds for a request without keys, which would be one for every item.
        "Null": {"dynamodb:LeadingKeys": "false"},
    }
    return {**_statement(sid, actions, [resource]), "Condition": condition}


def _payloads(settings: Settings, bucket: str, role: Role, arns: Arns) -> Iterator[Policy]:
    """Return the statements about the bucket; a bridge that runs the stages itself reads as a worker does."""
    actions, arn = _ACTIONS[role], arns.bucket(bucket)
    is_worker = role == "bridge" and not settings.use_sqs_task_processing
    reads = _READ_OBJECTS if is_worker else frozenset[str]()
    made = _MAKE_BUCKET if _makes(settings, role) else frozenset[str]()
    yield _statement("PayloadBucket", actions.bucket | made, [arn])
    if objects := actions.objects | reads:
        yield _statement("Payloads", objects, [f"{arn}/{settings.service_name}/*"])
    if events := actions.events | reads:
        yield _statement("EventPayloads", events, [f"{arn}/*/event/*"])


def _key(key: str, arns: Arns, actions: Iterable[str], services: Iterable[str]) -> Policy:
    """Return the statement about the key: it may be used through these services only, not directly."""
    # The end of the host names differs by partition: .com, .com.cn, .eu.
    through = [f"{service}.{arns.region}.amazonaws.*" for service in services]
    return {**_statement("Key", actions, [key]), "Condition": {"StringLike": {"kms:ViaService": through}}}


def _kafka(settings: Settings, registry: Registry, role: Role, arns: Arns) -> Iterator[Policy]:
    """Return the statements of MSK's own access control, which renames Kafka's operations."""
    if not arns.cluster_arn:
        raise ConfigurationError("KAFKA_SASL_MECHANISM=AWS_MSK_IAM: set MSK_CLUSTER_ARN to name its topics.")
    topics = topic_needs(settings, registry)
    every = [need.name for need in topics]
    read = [need.name for need in topics if role in need.read_by]
    written = [need.name for need in topics if role in need.written_by]
    cluster = "Connect WriteDataIdempotently" if written else "Connect"
    yield _kafka_statement("KafkaCluster", cluster, [arns.cluster_arn])
    yield _kafka_statement("KafkaTopics", _TOPICS[role], map(arns.topic, every))
    if _makes(settings, role):
        yield _kafka_statement("KafkaMissingTopics", "CreateTopic", map(arns.topic, every))
    if others := topics_of_others(settings, registry):
        reads = " ReadData" if role in _READ_OTHERS else ""
        yield _kafka_statement("KafkaTopicsOfOthers", f"DescribeTopic{reads}", map(arns.topic, others))
    yield _kafka_statement("KafkaRead", "ReadData", map(arns.topic, read))
    if written:
        yield _kafka_statement("KafkaWrite", "WriteData", map(arns.topic, written))
    if role == "bridge":
        group = arns.group(settings.kafka_consumer_group)
        yield _kafka_statement("KafkaGroup", "AlterGroup", [group])
    yield _kafka_statement("KafkaGroups", "DescribeGroup", map(arns.group, _groups(settings, role)))


#: On every topic: read its metadata and offsets; the operator also makes, compares and changes it.
_TOPICS: dict[Role, str] = {
    "bridge": "DescribeTopic",
    "worker": "DescribeTopic",
    "web": "DescribeTopic",
    "web-read-only": "DescribeTopic",
    "operator": "AlterTopic AlterTopicDynamicConfiguration CreateTopic DescribeTopic "
    "DescribeTopicDynamicConfiguration",
}


#: Bridges run consumers; the jobs page and operators replay. The rest shows how far behind the bridges are.
_READ_OTHERS: frozenset[Role] = frozenset({"bridge", "web", "operator"})


def _groups(settings: Settings, role: Role) -> list[str]:
    """Return the groups that a role describes: the service's own, for its lag, and those of its readers."""
    name = settings.service_name
    readers: dict[Role, list[str]] = {
        "bridge": [f"{name}-scan"],
        "worker": [f"{name}.control"],
        "web": [f"{name}.control", f"{name}-scan"],
        "web-read-only": [f"{name}.control", f"{name}-scan"],
        "operator": [f"{name}.control", f"{name}-peek", f"{name}-scan"],
    }
    return [settings.kafka_consumer_group, *readers[role]]


def _kafka_statement(sid: str, actions: str, resources: Iterable[str]) -> Policy:
    return _statement(sid, _of("kafka-cluster", actions), resources)


def _statement(sid: str, actions: Iterable[str], resources: Iterable[str]) -> Policy:
    return {
        "Sid": sid,
        "Effect": "Allow",
        "Action": sorted(actions),
        "Resource": sorted(set(resources)),
    }
