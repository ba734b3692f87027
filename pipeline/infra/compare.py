"""Comparison of the topics and queues that a service needs with those that exist.

The same comparison serves ``pipeline provision``, ``pipeline check`` and the checks at start. More than is
needed is never a difference: longer retention, larger records, more partitions.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from pipeline.infra.needs import QueueNeed, TopicNeed
from pipeline.infra.queuepolicy import is_tls_only, with_tls_only
from pipeline.kafka import Topic

#: Settings of a topic where a higher value is accepted: it keeps records longer, takes larger ones, or has
#: them on more brokers before it acknowledges them.
_AT_LEAST = ("retention.ms", "max.message.bytes", "min.insync.replicas")

#: The attributes that encrypt a queue at rest; SQS tells one of them of every queue.
ENCRYPTION = frozenset({"KmsMasterKeyId", "SqsManagedSseEnabled"})

#: The attribute with the queue's own access policy.
POLICY = "Policy"

#: The attribute that makes a queue FIFO; it cannot be changed.
FIFO = "FifoQueue"

RedriveFault = Literal["missing", "another target", "count too low"]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One property that is less than a service needs."""

    key: str
    #: None: it is not set.
    present: str | None
    needed: str
    #: Why an update does not change it; None if it does.
    kept: str | None = None
    #: The clause that describes it, if the values themselves do not.
    clause: str | None = None

    def text(self, unset: str = "None") -> str:
        """Return the difference as a clause; ``unset`` stands for a value that is not set."""
        return self.clause or f"{self.key} is {self.present or unset}, should be {self.needed}"


@dataclass(frozen=True, kw_only=True)
class TopicComparison:
    """A topic that exists, compared with its need."""

    need: TopicNeed
    #: Differences of its configuration; none where the cluster does not tell it (librdkafka's mock).
    config: tuple[Difference, ...]
    partitions: Difference | None
    replication: Difference | None

    @property
    def differences(self) -> tuple[Difference, ...]:
        """All differences."""
        return (*self.config, *(each for each in (self.partitions, self.replication) if each))


@dataclass(frozen=True, kw_only=True)
class QueueComparison:
    """A queue, compared with its need."""

    need: QueueNeed
    #: Under SQS's own names; None: the queue does not exist.
    attributes: Mapping[str, str] | None
    #: The attributes that differ, without RedrivePolicy.
    differences: tuple[Difference, ...] = ()
    #: Where SQS moves the messages that were received too often, and after how many deliveries.
    target: str = ""
    max_receive_count: int = 0
    #: Why its RedrivePolicy does not do; None if it does, or if it needs none.
    redrive_fault: RedriveFault | None = None

    @property
    def arn(self) -> str | None:
        """The ARN of an existing queue."""
        return self.attributes["QueueArn"] if self.attributes else None

    @property
    def is_fifo(self) -> bool:
        """Whether it is a FIFO queue."""
        return self.attributes is not None and self.attributes.get(FIFO) == "true"

    def difference(self, key: str) -> Difference | None:
        """Return how an attribute differs; None if it does not."""
        return next((each for each in self.differences if each.key == key), None)


def compare_topic(need: TopicNeed, topic: Topic, config: Mapping[str, str]) -> TopicComparison:
    """Compare an existing topic. ``config`` is {} where the cluster does not tell it."""
    return TopicComparison(
        need=need,
        config=tuple(
            Difference(key=key, present=config.get(key), needed=value)
            for key, value in need.config.items()
            if config and _is_asked(key, need, topic) and not _topic_has(config.get(key), key, value)
        ),
        partitions=_partition_difference(need, topic),
        replication=_replication_difference(need, topic),
    )


def compare_queue(
    need: QueueNeed, attributes: Mapping[str, str] | None, dead_letters: str | None
) -> QueueComparison:
    """Compare a queue. ``dead_letters`` is the ARN of the service's dead-letter queue."""
    if attributes is None:
        return QueueComparison(need=need, attributes=None)
    target, count = _redrive_policy(attributes.get("RedrivePolicy"))
    fault: RedriveFault | None = None
    if not need.is_dead_letter_queue:
        if not target:
            fault = "missing"
        elif target != dead_letters:
            fault = "another target"
        elif count < need.max_receive_count:
            fault = "count too low"
    return QueueComparison(
        need=need,
        attributes=attributes,
        differences=(*_attribute_differences(need, attributes), *_policy_differences(need, attributes)),
        target=target,
        max_receive_count=count,
        redrive_fault=fault,
    )


def _attribute_differences(need: QueueNeed, attributes: Mapping[str, str]) -> Iterator[Difference]:
    """An attribute that is not told is not judged: emulators leave out those they do not implement."""
    for key, value in need.attributes.items():
        if key in ENCRYPTION:
            if ENCRYPTION & attributes.keys() and not _is_encrypted(key, value, attributes):
                yield Difference(key=key, present=attributes.get(key), needed=value)
        elif key in attributes and not _queue_has(attributes[key], value):
            yield Difference(key=key, present=attributes[key], needed=value)


def _is_encrypted(key: str, value: str, attributes: Mapping[str, str]) -> bool:
    # A queue with a key of its own needs none of SQS.
    return attributes.get(key) == value or (key == "SqsManagedSseEnabled" and "KmsMasterKeyId" in attributes)


def _policy_differences(need: QueueNeed, attributes: Mapping[str, str]) -> Iterator[Difference]:
    present = attributes.get(POLICY)
    if need.tls_only and not is_tls_only(present):
        yield Difference(
            key=POLICY,
            present=present,
            needed=with_tls_only(present, attributes["QueueArn"]),
            clause=f"{POLICY} does not deny requests without TLS",
        )


def _is_asked(key: str, need: TopicNeed, topic: Topic) -> bool:
    # With too few replicas, more of them in sync than there are would make the topic refuse every record.
    return key != "min.insync.replicas" or topic.replication >= need.replication


def _topic_has(present: str | None, key: str, value: str) -> bool:
    if present is None or present == value:
        return present == value
    if key == "compression.type":
        # Kept as the producers sent it, who compress with snappy.
        return present == "producer"
    # -1: without limit.
    return key in _AT_LEAST and (int(present) >= int(value) or int(present) == -1)


def _queue_has(present: str, value: str) -> bool:
    return int(present) >= int(value) if value.isdigit() else present == value


def _partition_difference(need: TopicNeed, topic: Topic) -> Difference | None:
    if topic.partitions >= need.partitions:
        return None
    kept = None
    if need.ordered:
        kept = (
            f"{', '.join(need.ordered)} reads it in order, and a key's later events would go to another "
            "partition while earlier ones wait; drain it, then make a new topic"
        )
    return Difference(key="partitions", present=str(topic.partitions), needed=str(need.partitions), kept=kept)


def _replication_difference(need: TopicNeed, topic: Topic) -> Difference | None:
    if topic.replication >= need.replication:
        return None
    return Difference(
        key="replication",
        present=str(topic.replication),
        needed=str(need.replication),
        kept="moving replicas is the cluster operator's (kafka-reassign-partitions)",
    )


def _redrive_policy(text: str | None) -> tuple[str, int]:
    """Return the target and count of a RedrivePolicy; ("", 0) where there is none."""
    policy = json.loads(text or "{}")
    # SQS gives the count as a number, and takes it as text too; emulators give back what they took.
    return policy.get("deadLetterTargetArn", ""), int(policy.get("maxReceiveCount", 0))
