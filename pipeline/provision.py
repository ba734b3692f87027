"""Makes what a service needs: topics, queues, the table. Says what was made, was there, or differs."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from config.settings import Settings
from pipeline.jobs import JobStore
from pipeline.kafka import KafkaAdmin, Topic
from pipeline.registry import Registry
from pipeline.sqs import sqs_client
from pipeline.sqs.queues import change_queue, make_queue, queue_attributes
from pipeline.topology import QueueNeed, TopicNeed, queue_needs, topic_needs

Kind = Literal["topic", "queue", "table"]
Outcome = Literal["made", "present", "differs", "updated"]


@dataclass(frozen=True, kw_only=True)
class Result:
    """What was found of one thing, and done about it."""

    kind: Kind
    name: str
    #: "differs" while anything does, also when something else was changed.
    outcome: Outcome
    #: What is not as it should be, a sentence each.
    differences: tuple[str, ...] = ()
    #: What was not, and was changed.
    changed: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Difference:
    text: str
    #: Why an update does not change it; None when it does.
    kept: str | None = None

    def __str__(self) -> str:
        return f"{self.text}; not changed: {self.kept}" if self.kept else self.text


def provision(settings: Settings, registry: Registry, *, update: bool = False) -> Iterator[Result]:
    """Make what is missing, one thing after the other; change what differs only with ``update``.

    Doing it again changes nothing. Raises ServiceRefusedError, naming the mend, for what is not allowed.
    """
    admin = KafkaAdmin(settings)
    yield from _Topics(admin).provision(topic_needs(settings, registry), update)
    yield from _Queues(settings).provision(queue_needs(settings, registry), update)
    yield _table(settings, update)


def make_missing(settings: Settings, registry: Registry, *, kafka: bool, sqs: bool) -> Iterator[Result]:
    """Make what is missing and look at nothing else: all that a start may do, with the fewest permissions."""
    if kafka:
        yield from _Topics(KafkaAdmin(settings)).make_missing(topic_needs(settings, registry))
    if sqs:
        yield from _Queues(settings).make_missing(queue_needs(settings, registry))
    report = JobStore(settings).inspect()
    if report.outcome == "missing":
        yield _table(settings, update=False)


class _Topics:
    def __init__(self, admin: KafkaAdmin) -> None:
        self._admin = admin

    def make_missing(self, needs: list[TopicNeed]) -> Iterator[Result]:
        present = self._admin.topics()
        for need in needs:
            if need.name not in present and self._make(need):
                yield Result(kind="topic", name=need.name, outcome="made")

    def provision(self, needs: list[TopicNeed], update: bool) -> Iterator[Result]:
        present = self._admin.topics()
        configs = self._admin.configs([need.name for need in needs if need.name in present])
        for need in needs:
            if need.name in present:
                yield self._compare(need, present[need.name], configs.get(need.name, {}), update)
            elif self._make(need):
                yield Result(kind="topic", name=need.name, outcome="made")
            else:
                # Another process made it a moment ago, as this one would have.
                yield Result(kind="topic", name=need.name, outcome="present")

    def _make(self, need: TopicNeed) -> bool:
        return self._admin.create(
            need.name, partitions=need.partitions, replication=need.replication, config=need.config
        )

    def _compare(self, need: TopicNeed, topic: Topic, config: Mapping[str, str], update: bool) -> Result:
        wrong = need.lacking(config, topic.replication) if config else {}
        differences = [
            _Difference(text=f"{key} is {config.get(key)}, should be {value}") for key, value in wrong.items()
        ]
        partitions = _partition_difference(need, topic)
        differences += [partitions] if partitions else []
        if topic.replication < need.replication:
            differences.append(_replication_difference(need, topic))
        if update and wrong:
            self._admin.configure(need.name, wrong)
        if update and partitions and not partitions.kept:
            self._admin.grow(need.name, need.partitions)
        return _result("topic", need.name, differences, update)


def _partition_difference(need: TopicNeed, topic: Topic) -> _Difference | None:
    if topic.partitions >= need.partitions:
        return None
    kept = None
    if need.ordered:
        kept = (
            f"{', '.join(need.ordered)} reads it in order, and a key's later events would go to another "
            "partition while earlier ones wait; drain it, then make a new topic"
        )
    text = f"partitions are {topic.partitions}, should be {need.partitions}"
    return _Difference(text=text, kept=kept)


def _replication_difference(need: TopicNeed, topic: Topic) -> _Difference:
    return _Difference(
        text=f"replication is {topic.replication}, should be {need.replication}",
        kept="moving replicas is the cluster operator's (kafka-reassign-partitions)",
    )


class _Queues:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._client = sqs_client(settings)
        self._dead_letters = ""

    def make_missing(self, needs: list[QueueNeed]) -> Iterator[Result]:
        for need in needs:
            present = queue_attributes(self._client, need.url)
            if present is None:
                yield self._make(need)
            else:
                self._remember(need, present)

    def provision(self, needs: list[QueueNeed], update: bool) -> Iterator[Result]:
        for need in needs:
            present = queue_attributes(self._client, need.url)
            if present is None:
                yield self._make(need)
                continue
            self._remember(need, present)
            yield self._compare(need, present, update)

    def _make(self, need: QueueNeed) -> Result:
        present = make_queue(self._client, need.url, {**need.attributes, **self._redrive(need)})
        self._remember(need, present)
        return Result(kind="queue", name=need.name, outcome="made")

    def _remember(self, need: QueueNeed, present: Mapping[str, str]) -> None:
        if need.url == self._settings.sqs_dlq_url:
            self._dead_letters = present["QueueArn"]

    def _redrive(self, need: QueueNeed) -> dict[str, str]:
        if not need.max_receive_count:
            return {}
        policy = {"deadLetterTargetArn": self._dead_letters, "maxReceiveCount": need.max_receive_count}
        return {"RedrivePolicy": json.dumps(policy)}

    def _compare(self, need: QueueNeed, present: Mapping[str, str], update: bool) -> Result:
        wrong = need.lacking(present)
        wanted = self._redrive(need)
        if not _leads(present.get("RedrivePolicy"), wanted.get("RedrivePolicy")):
            wrong |= wanted
        if update and wrong:
            change_queue(self._client, need.url, wrong)
        differences = [
            _Difference(text=f"{key} is {present.get(key) or 'not set'}, should be {value}")
            for key, value in wrong.items()
        ]
        return _result("queue", need.name, differences, update)


def _leads(present: str | None, wanted: str | None) -> bool:
    """Whether a RedrivePolicy is as good as the wanted one, where one is wanted."""
    here, there = redrive_policy(wanted), redrive_policy(present)
    return wanted is None or (here[0] == there[0] and there[1] >= here[1])


def redrive_policy(text: str | None) -> tuple[str, int]:
    """A RedrivePolicy's target and count; ("", 0) where there is none. A higher count is as good."""
    policy = json.loads(text or "{}")
    # SQS gives the count as a number, and takes it as text too; emulators give back what they took.
    return policy.get("deadLetterTargetArn", ""), int(policy.get("maxReceiveCount", 0))


def _table(settings: Settings, update: bool) -> Result:
    report = JobStore(settings).provision(update)
    outcomes: Mapping[str, Outcome] = {"changed": "updated", "made": "made", "present": "present"}
    return Result(
        kind="table",
        name=report.name,
        outcome=outcomes.get(report.outcome, "differs"),
        differences=() if report.outcome == "changed" else report.differences,
        changed=report.differences if report.outcome == "changed" else (),
    )


def _result(kind: Kind, name: str, found: list[_Difference], update: bool) -> Result:
    changed = [each for each in found if update and not each.kept]
    left = [each for each in found if each not in changed]
    outcome: Outcome = "differs" if left else "updated" if changed else "present"
    return Result(
        kind=kind,
        name=name,
        outcome=outcome,
        differences=tuple(str(each) for each in left),
        changed=tuple(str(each) for each in changed),
    )
