"""Checks at start: refuse to run now rather than lose a task later."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import structlog

from pipeline.author.registry import Registry
from pipeline.errors import ConfigurationError
from pipeline.infra.compare import QueueComparison, compare_queue
from pipeline.infra.needs import QueueNeed, missing_topics, queue_needs, topic_needs, topics_of_others
from pipeline.infra.provision import make_missing
from pipeline.infra.topicschemas import check_schemas
from pipeline.jobs import JobStore
from pipeline.kafka import KafkaAdmin
from pipeline.payloads.bucket import Bucket, bucket_need
from pipeline.settings import TOPIC_VARIABLE, Settings
from pipeline.sqs import MAX_MESSAGE_BYTES, QUEUE_RETENTION, sqs_client
from pipeline.sqs.queues import queue_attributes

log = structlog.get_logger(__name__)

_MAKE = 'Run "pipeline provision", or set AUTO_PROVISION=true.'
_UPDATE = 'Run "pipeline provision --update".'


def check_start(settings: Settings, registry: Registry, takes: Sequence[str] = ()) -> None:
    """Make what is missing if AUTO_PROVISION allows it; refuse a service that would lose tasks or hang.

    ``takes``: the names of the queues that a worker consumes from, which may belong to no stage.

    Schemas of topics are not made here, also not with AUTO_PROVISION: the registry's other users would see a
    version that nobody decided on.

    Raises ConfigurationError, which names the setting and the mend, or the ServiceError that kept it from
    asking. A side that is switched off (KAFKA_ENABLED, USE_SQS_TASK_PROCESSING) is not checked, nor are time
    limits: neither a setting nor a stage accepts one that SQS could not hold.
    """
    kafka, sqs = settings.kafka_enabled, settings.use_sqs_task_processing
    if settings.auto_provision:
        for result in make_missing(settings, registry, kafka=kafka, sqs=sqs):
            log.info("provision.made", kind=result.kind, name=result.name)
    elif kafka:
        _check_topics(settings, registry)
    if kafka:
        check_schemas(settings, registry)
    if sqs:
        _check_queues(settings, registry, takes)
    _check_table(settings)
    _check_bucket(settings)
    report_max_parts(settings, registry)


def check_topics_of_others(settings: Settings, registry: Registry) -> None:
    """Refuse to consume where a consumer's topic is not there: nobody would notice that it gets nothing."""
    others = topics_of_others(settings, registry)
    if others and (missing := others.keys() - KafkaAdmin(settings).topics()):
        raise ConfigurationError(missing_of_others(others, missing))


def missing_of_others(others: Mapping[str, Sequence[str]], missing: Collection[str]) -> str:
    """Return the message for topics of others that are not there, with their consumers."""
    read = ", ".join(f"{name} (read by {', '.join(others[name])})" for name in sorted(missing))
    return (
        f"Not on Kafka, or not to be seen with this process's rights: {read}. Topics of others are not made "
        f"here: ask their owners, or name them in {TOPIC_VARIABLE}<NAME>."
    )


def report_max_parts(settings: Settings, registry: Registry) -> None:
    """Log the most parts of a split, if a stage has a split."""
    if splits := sorted(stage.name for stage in registry.by_name.values() if stage.is_split):
        log.info("splits.bounded", max_parts=settings.max_parts, stages=splits)


def check_added_queue(settings: Settings, registry: Registry, name: str) -> None:
    """Refuse a queue that a worker is asked to consume from, unless it is as its tasks need it."""
    dead_letters, *queues = queue_needs(settings, registry)
    if own := [need for need in queues if need.name == name]:
        _check_task_queues(settings, dead_letters, own)
        return
    task_queue = queues[0]
    mend = (
        f'Make it like {task_queue.name} (no stage names it, so "pipeline provision" does not), or leave it '
        "out of -Q, task_queues or add_consumer."
    )
    need = replace(task_queue, url=settings.queue_url(name))
    _check_task_queues(settings, dead_letters, [need], mend)


def check_queue(found: QueueComparison, mend: str | None = None) -> Mapping[str, str]:
    """Return the attributes of a queue; raise ConfigurationError if it would lose or refuse messages.

    ``mend``: the advice about a queue that "pipeline provision" does not keep.
    """
    need = found.need
    if found.attributes is None:
        raise ConfigurationError(f"SQS queue {need.url} does not exist. {mend or _MAKE}")
    if not found.is_fifo:
        raise ConfigurationError(
            f"SQS queue {need.name} is a standard queue: it would keep no order and run tasks twice. "
            + (mend or "Name a FIFO queue in SQS_TASK_QUEUE_URL, SQS_DLQ_URL or the stage's queue.")
        )
    if retention := found.difference("MessageRetentionPeriod"):
        raise ConfigurationError(
            f"SQS queue {need.name} keeps messages {retention.present} s, then drops them "
            f"for good: should be {QUEUE_RETENTION} (14 days). {mend or _UPDATE}"
        )
    if size := found.difference("MaximumMessageSize"):
        raise ConfigurationError(
            f"SQS queue {need.name} takes no message over {size.present} bytes: "
            f"should be {MAX_MESSAGE_BYTES}. {mend or _UPDATE}"
        )
    return found.attributes


def _check_topics(settings: Settings, registry: Registry) -> None:
    if missing := missing_topics(topic_needs(settings, registry), KafkaAdmin(settings).topics()):
        raise ConfigurationError(f"Not on Kafka: {', '.join(missing)}. {_MAKE}")


def _check_queues(settings: Settings, registry: Registry, takes: Sequence[str]) -> None:
    dead_letters, *queues = queue_needs(settings, registry)
    _check_task_queues(settings, dead_letters, queues)
    for name in sorted(set(takes) - {need.name for need in queues}):
        check_added_queue(settings, registry, name)


def _check_task_queues(
    settings: Settings, dead_letters: QueueNeed, queues: Sequence[QueueNeed], mend: str | None = None
) -> None:
    client = sqs_client(settings)
    target = check_queue(compare_queue(dead_letters, queue_attributes(client, dead_letters.url), None))
    arn = target["QueueArn"]
    for need in queues:
        found = compare_queue(need, queue_attributes(client, need.url), arn)
        check_queue(found, mend)
        _check_redrive(found, arn, mend)


def _check_redrive(found: QueueComparison, dead_letters: str, mend: str | None) -> None:
    name, needed = found.need.name, found.need.max_receive_count
    match found.redrive_fault:
        case "missing":
            raise ConfigurationError(
                f"SQS queue {name} has no RedrivePolicy: a task that no worker survives would come back "
                "for ever. " + (mend or 'Run "pipeline provision --update", or set one.')
            )
        case "another target":
            raise ConfigurationError(
                f"SQS queue {name} sends dead letters to {found.target}, SQS_DLQ_URL is {dead_letters}: "
                "nobody would look there. "
                + (mend or 'Run "pipeline provision --update", or correct SQS_DLQ_URL.')
            )
        case "count too low":
            raise ConfigurationError(
                f"SQS queue {name} has maxReceiveCount {found.max_receive_count}, should be {needed} or "
                "more: tasks waiting behind one that is tried again are received with it, and SQS would take "
                f"them for failures. {mend or _UPDATE}"
            )


def _check_table(settings: Settings) -> None:
    report = JobStore(settings).schema.inspect()
    if report.outcome == "missing":
        raise ConfigurationError(f"DynamoDB table {report.name} does not exist. {_MAKE}")
    if report.faults:
        raise ConfigurationError(f"DynamoDB table {report.name}: {'; '.join(report.faults)}.")
    for difference in report.differences:
        log.warning("table.differs", table=report.name, difference=difference)


def _check_bucket(settings: Settings) -> None:
    need = bucket_need(settings)
    if need is not None and not Bucket(need).exists():
        raise ConfigurationError(
            f"S3 bucket {need.name} does not exist. {_MAKE} Or correct PAYLOAD_BUCKET or AWS_DEFAULT_REGION."
        )
