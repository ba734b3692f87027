"""Provisioning: make topics, queues, table, bucket and schemas of a service, and change what differs."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pipeline.author.registry import Registry
from pipeline.infra.compare import (
    POLICY,
    Difference,
    QueueComparison,
    TopicComparison,
    compare_queue,
    compare_topic,
)
from pipeline.infra.needs import QueueNeed, TopicNeed, queue_needs, topic_needs, topics_of_others
from pipeline.infra.queuepolicy import with_tls_only
from pipeline.infra.topicschemas import register_schemas
from pipeline.jobs import JobStore, TableReport
from pipeline.kafka import KafkaAdmin
from pipeline.payloads.bucket import Bucket, BucketReport, bucket_need
from pipeline.settings import Settings
from pipeline.sqs import sqs_client
from pipeline.sqs.queues import change_queue, make_queue, queue_arn, queue_attributes

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

Kind = Literal["topic", "queue", "table", "bucket", "schema"]
Outcome = Literal["made", "present", "differs", "updated"]


@dataclass(frozen=True, kw_only=True)
class Result:
    """The outcome for one topic, queue, table, bucket or schema."""

    kind: Kind
    name: str
    #: "differs" while any difference is left, also when others were changed.
    outcome: Outcome
    #: Differences that are left, a sentence each.
    differences: tuple[str, ...] = ()
    #: Differences that were changed.
    changed: tuple[str, ...] = ()


def provision(settings: Settings, registry: Registry, *, update: bool = False) -> Iterator[Result]:
    """Make what is missing, one after the other; change what differs only with ``update``.

    A schema that is new is registered as the next version: those before it stay.

    A second run changes nothing. Raises ServiceRefusedError, naming the mend, for what is not allowed.
    """
    admin = KafkaAdmin(settings)
    yield from _provision_topics(admin, topic_needs(settings, registry), update)
    yield from _stand_in_for_others(admin, settings, registry)
    yield from _provision_queues(settings, queue_needs(settings, registry), update)
    yield _provision_table(settings, update)
    if (need := bucket_need(settings)) is not None:
        yield _report_result("bucket", Bucket(need).provision(update))
    for subject, made in register_schemas(settings, registry):
        yield Result(kind="schema", name=subject, outcome="made" if made else "present")


def make_missing(settings: Settings, registry: Registry, *, kafka: bool, sqs: bool) -> Iterator[Result]:
    """Make what is missing and compare nothing: all that a start may do, with the fewest permissions."""
    if kafka:
        admin = KafkaAdmin(settings)
        existing = admin.topics()
        for need in topic_needs(settings, registry):
            if need.name not in existing and _make_topic(admin, need):
                yield Result(kind="topic", name=need.name, outcome="made")
        yield from _stand_in_for_others(admin, settings, registry)
    if sqs:
        results = _provision_queues(settings, queue_needs(settings, registry), update=False)
        yield from (result for result in results if result.outcome == "made")
    if JobStore(settings).schema.inspect().outcome == "missing":
        yield _provision_table(settings, update=False)
    if (bucket := bucket_need(settings)) is not None and not Bucket(bucket).exists():
        yield _report_result("bucket", Bucket(bucket).provision(update=False))


def _provision_topics(admin: KafkaAdmin, needs: Sequence[TopicNeed], update: bool) -> Iterator[Result]:
    existing = admin.topics()
    configs = admin.configs([need.name for need in needs if need.name in existing])
    for need in needs:
        if need.name in existing:
            found = compare_topic(need, existing[need.name], configs.get(need.name, {}))
            if update:
                _change_topic(admin, found)
            yield _result("topic", need.name, [(each, each.text()) for each in found.differences], update)
        else:
            # It is present if another process made it meanwhile, as this one would have.
            outcome: Outcome = "made" if _make_topic(admin, need) else "present"
            yield Result(kind="topic", name=need.name, outcome=outcome)


def _stand_in_for_others(admin: KafkaAdmin, settings: Settings, registry: Registry) -> Iterator[Result]:
    """Make missing topics of others where the brokers are on this machine: nobody else would, for a trial."""
    others = topics_of_others(settings, registry)
    if not others or not settings.brokers_are_here:
        return
    for name in others.keys() - admin.topics():
        if admin.create(
            name,
            partitions=settings.topic_partitions,
            replication=settings.topic_replication_factor,
            config={},
        ):
            yield Result(kind="topic", name=name, outcome="made")


def _make_topic(admin: KafkaAdmin, need: TopicNeed) -> bool:
    return admin.create(
        need.name, partitions=need.partitions, replication=need.replication, config=need.config
    )


def _change_topic(admin: KafkaAdmin, found: TopicComparison) -> None:
    if found.config:
        admin.configure(found.need.name, {each.key: each.needed for each in found.config})
    if found.partitions and not found.partitions.kept:
        admin.grow(found.need.name, found.need.partitions)


def _provision_queues(settings: Settings, needs: Sequence[QueueNeed], update: bool) -> Iterator[Result]:
    client = sqs_client(settings)
    dead_letters = ""
    for need in needs:
        attributes = queue_attributes(client, need.url)
        if attributes is None:
            attributes = make_queue(
                client, need.url, {**need.attributes, **_redrive(need, dead_letters), **_policy(client, need)}
            )
            yield Result(kind="queue", name=need.name, outcome="made")
        else:
            found = compare_queue(need, attributes, dead_letters)
            differences = _queue_differences(found, dead_letters)
            if update and differences:
                change_queue(client, need.url, {each.key: each.needed for each in differences})
            texts = [(each, each.text("not set")) for each in differences]
            yield _result("queue", need.name, texts, update)
        if need.is_dead_letter_queue:
            dead_letters = attributes["QueueArn"]


def _queue_differences(found: QueueComparison, dead_letters: str) -> list[Difference]:
    assert found.attributes is not None
    redrive = _redrive(found.need, dead_letters) if found.redrive_fault else {}
    return [
        *found.differences,
        *(
            Difference(key=key, present=found.attributes.get(key), needed=value)
            for key, value in redrive.items()
        ),
    ]


def _redrive(need: QueueNeed, dead_letters: str) -> dict[str, str]:
    if need.is_dead_letter_queue:
        return {}
    policy = {"deadLetterTargetArn": dead_letters, "maxReceiveCount": need.max_receive_count}
    return {"RedrivePolicy": json.dumps(policy)}


def _policy(client: "SQSClient", need: QueueNeed) -> dict[str, str]:
    return {POLICY: with_tls_only(None, queue_arn(client, need.url))} if need.tls_only else {}


def _provision_table(settings: Settings, update: bool) -> Result:
    return _report_result("table", JobStore(settings).schema.provision(update))


def _report_result(kind: Kind, report: TableReport | BucketReport) -> Result:
    outcomes: Mapping[str, Outcome] = {"changed": "updated", "made": "made", "present": "present"}
    return Result(
        kind=kind,
        name=report.name,
        outcome=outcomes.get(report.outcome, "differs"),
        differences=() if report.outcome == "changed" else report.differences,
        changed=report.differences if report.outcome == "changed" else (),
    )


def _result(kind: Kind, name: str, found: list[tuple[Difference, str]], update: bool) -> Result:
    changed = tuple(text for each, text in found if update and not each.kept)
    left = tuple(
        f"{text}; not changed: {each.kept}" if each.kept else text
        for each, text in found
        if not update or each.kept
    )
    outcome: Outcome = "differs" if left else "updated" if changed else "present"
    return Result(kind=kind, name=name, outcome=outcome, differences=left, changed=changed)
