"""What must hold before a worker or bridge starts: refuse now rather than lose a task later."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import structlog

from config.settings import Settings
from pipeline.errors import ConfigurationError
from pipeline.jobs import JobStore
from pipeline.kafka import KafkaAdmin
from pipeline.provision import make_missing, redrive_policy
from pipeline.registry import Registry
from pipeline.sqs import MAX_MESSAGE_BYTES, QUEUE_RETENTION, sqs_client
from pipeline.sqs.queues import queue_attributes
from pipeline.topology import FIFO, QueueNeed, queue_needs, topic_needs

log = structlog.get_logger(__name__)

_MAKE = 'Run "pipeline provision", or set AUTO_PROVISION=true.'
_UPDATE = 'Run "pipeline provision --update".'


def check_start(settings: Settings, registry: Registry, takes: Sequence[str] = ()) -> None:
    """Make what is missing when AUTO_PROVISION allows it; refuse what would lose tasks or hang.

    ``takes``: the names of the queues that a worker is told to take from, which may be no stage's.

    Raises ConfigurationError, which names the setting and the mend, or the ServiceError that kept it from
    looking. A side that is switched off (KAFKA_ENABLED, USE_SQS_TASK_PROCESSING) is not looked at. Time
    limits need no look: neither a setting nor a stage takes one that SQS could not hold.
    """
    kafka, sqs = settings.kafka_enabled, settings.use_sqs_task_processing
    if settings.auto_provision:
        for made in make_missing(settings, registry, kafka=kafka, sqs=sqs):
            log.info("provision.made", kind=made.kind, name=made.name)
    elif kafka:
        _check_topics(settings, registry)
    if sqs:
        _check_queues(settings, registry, takes)
    _check_table(settings)


def check_added_queue(settings: Settings, registry: Registry, name: str) -> None:
    """Refuse a queue that a worker is told to consume from, unless it is as its tasks need it."""
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


def _check_topics(settings: Settings, registry: Registry) -> None:
    present = KafkaAdmin(settings).topics()
    missing = [need.name for need in topic_needs(settings, registry) if need.name not in present]
    if missing:
        raise ConfigurationError(f"Not on Kafka: {', '.join(missing)}. {_MAKE}")


def _check_queues(settings: Settings, registry: Registry, takes: Sequence[str]) -> None:
    dead_letters, *queues = queue_needs(settings, registry)
    _check_task_queues(settings, dead_letters, queues)
    for name in sorted(set(takes) - {need.name for need in queues}):
        check_added_queue(settings, registry, name)


def _check_task_queues(
    settings: Settings, dead_letters: QueueNeed, queues: Iterable[QueueNeed], mend: str | None = None
) -> None:
    client = sqs_client(settings)
    target = check_queue(dead_letters, queue_attributes(client, dead_letters.url))["QueueArn"]
    for need in queues:
        present = check_queue(need, queue_attributes(client, need.url), mend)
        _check_redrive(need, present.get("RedrivePolicy"), target, mend)


def check_queue(need: QueueNeed, present: dict[str, str] | None, mend: str | None = None) -> dict[str, str]:
    """The attributes of a queue that is there; ConfigurationError where messages would be lost or refused.

    ``mend``: what to do about a queue that "pipeline provision" does not keep.
    """
    if present is None:
        raise ConfigurationError(f"SQS queue {need.url} does not exist. {mend or _MAKE}")
    if present.get(FIFO) != "true":
        raise ConfigurationError(
            f"SQS queue {need.name} is a standard queue: it would keep no order and run tasks twice. "
            + (mend or "Name a FIFO queue in SQS_TASK_QUEUE_URL, SQS_DLQ_URL or the stage's queue.")
        )
    lacking = need.lacking(present)
    if "MessageRetentionPeriod" in lacking:
        raise ConfigurationError(
            f"SQS queue {need.name} keeps messages {present['MessageRetentionPeriod']} s, then drops them "
            f"for good: should be {QUEUE_RETENTION} (14 days). {mend or _UPDATE}"
        )
    if "MaximumMessageSize" in lacking:
        raise ConfigurationError(
            f"SQS queue {need.name} takes no message over {present['MaximumMessageSize']} bytes: "
            f"should be {MAX_MESSAGE_BYTES}. {mend or _UPDATE}"
        )
    return present


def _check_redrive(need: QueueNeed, policy: str | None, target: str, mend: str | None) -> None:
    there, count = redrive_policy(policy)
    if not there:
        raise ConfigurationError(
            f"SQS queue {need.name} has no RedrivePolicy: a task that no worker survives would come back "
            "for ever. " + (mend or 'Run "pipeline provision --update", or set one.')
        )
    if there != target:
        raise ConfigurationError(
            f"SQS queue {need.name} sends dead letters to {there}, SQS_DLQ_URL is {target}: nobody would "
            "look there. " + (mend or 'Run "pipeline provision --update", or correct SQS_DLQ_URL.')
        )
    if count < need.max_receive_count:
        raise ConfigurationError(
            f"SQS queue {need.name} has maxReceiveCount {count}, should be {need.max_receive_count} or more: "
            "tasks waiting behind one that is tried again are received with it, and SQS would take them "
            f"for failures. {mend or _UPDATE}"
        )


def _check_table(settings: Settings) -> None:
    report = JobStore(settings).inspect()
    if report.outcome == "missing":
        raise ConfigurationError(f"DynamoDB table {report.name} does not exist. {_MAKE}")
    if report.faults:
        raise ConfigurationError(f"DynamoDB table {report.name}: {'; '.join(report.faults)}.")
    for difference in report.differences:
        log.warning("table.differs", table=report.name, difference=difference)
