"""Positions of a group's member: where it starts in a partition, and again where its position does not exist.

A position may not exist because retention deleted the records, or because the topic was deleted and created
again under its name. librdkafka alone would go on somewhere without a word. So every commit carries the id of
its topic, and a position that is out of range is an error here and no silent reset.
"""

import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import structlog
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, TopicCollection, TopicPartition
from confluent_kafka import Message as VendorMessage
from confluent_kafka.admin import AdminClient

from pipeline.kafka.configuration import client_configuration
from pipeline.kafka.security import make_client
from pipeline.settings import Settings

log = structlog.get_logger(__name__)

#: Seconds that one request for offsets or topic ids may take.
TIMEOUT = 5.0
#: Seconds between two requests for the ids of the topics.
CHECK_EVERY = 5.0
#: Seconds between two attempts to restart a partition whose watermarks are not known.
RETRY_EVERY = 1.0

#: Begins the metadata of a commit; the topic's id follows. Other tools' metadata is left alone.
_NOTE = "topic-id="
#: The id from brokers that know none.
_NO_ID = "AAAAAAAAAAAAAAAAAAAAAA"


class Partition(NamedTuple):
    """One partition of one topic."""

    topic: str
    number: int


@dataclass(frozen=True, kw_only=True)
class Restart:
    """A partition that is read from its first record, because its position does not exist."""

    partition: Partition
    #: "expired": retention deleted records before they were read. "replaced": the topic was deleted and
    #: created again. "truncated": it ends before the position, as after an unclean leader election.
    reason: Literal["expired", "replaced", "truncated"]
    #: Offsets that were deleted before they were read.
    lost: int = 0


class Positions:
    """Start and restart positions of one member. The thread that polls its consumer calls it."""

    def __init__(
        self, consumer: Consumer, settings: Settings, on_restarted: Callable[[Restart], None]
    ) -> None:
        self._consumer = consumer
        self._settings = settings
        self._on_restarted = on_restarted
        self._admin: AdminClient | None = None
        #: The id of each topic that the positions belong to.
        self._ids: dict[str, str] = {}
        self._asked: dict[str, Future[Any]] = {}
        self._next_check = 0.0
        #: Positions that are out of range, of partitions that are to be restarted.
        self._out_of_range: dict[Partition, int] = {}
        self._next_restart = 0.0

    def admin(self) -> AdminClient:
        """Return the client that asks about topics: requests of the consumer itself would stop its polls."""
        if self._admin is None:
            self._admin = make_client(AdminClient, client_configuration(self._settings, "topics"))
        return self._admin

    def note(self, topic: str) -> str:
        """Return the metadata of a commit: it tells positions of this topic from those of another one."""
        return _NOTE + self._ids[topic] if topic in self._ids else ""

    def start(self, assigned: list[TopicPartition]) -> list[TopicPartition]:
        """Return where to start in newly assigned partitions.

        At the group's offset; at the beginning where there is none, or where it belongs to an earlier topic
        of the name. Where brokers do not answer, librdkafka looks the offset up itself.
        """
        if not assigned:
            return []
        held = {at.topic for at in self._consumer.assignment()}
        try:
            committed = self._consumer.committed(assigned, timeout=TIMEOUT)
            ids = self._wait_for_ids({at.topic for at in assigned})
        except KafkaException as error:
            log.warning("kafka.positions_unknown", error=str(error))
            return assigned
        starts = []
        for at in committed:
            topic_id, noted = ids.get(at.topic), _noted(at.metadata)
            if at.topic not in held:
                self._ids.pop(at.topic, None)
            if known := topic_id or noted:
                self._ids.setdefault(at.topic, known)
            replaced = bool(topic_id and noted and topic_id != noted)
            start = OFFSET_BEGINNING if replaced or at.offset < 0 else at.offset
            starts.append(TopicPartition(at.topic, at.partition, start))
            if replaced:
                self._on_restarted(Restart(partition=Partition(at.topic, at.partition), reason="replaced"))
        return starts

    def forget(self, partitions: Iterable[Partition]) -> None:
        """Drop pending restarts of partitions that were given away."""
        for partition in partitions:
            self._out_of_range.pop(partition, None)

    def set_out_of_range(self, answer: VendorMessage) -> None:
        """Restart the partition of this answer at the next ``check``."""
        topic, number, offset = answer.topic(), answer.partition(), answer.offset()
        if topic is not None and number is not None:
            self._out_of_range[Partition(topic, number)] = -1 if offset is None else offset

    def check(self) -> None:
        """Restart partitions whose position does not exist. Usually it only looks at the clock."""
        now = time.monotonic()
        if self._out_of_range and now >= self._next_restart:
            self._next_restart = now + RETRY_EVERY
            for partition, position in list(self._out_of_range.items()):
                self._restart_in_range(partition, position)
        if now >= self._next_check:
            self._next_check = now + CHECK_EVERY
            self._ask({at.topic for at in self._consumer.assignment()})
        for topic, answer in [(topic, answer) for topic, answer in self._asked.items() if answer.done()]:
            del self._asked[topic]
            if topic_id := _id_in(answer):
                self._compare(topic, topic_id)

    def _restart_in_range(self, partition: Partition, position: int) -> None:
        try:
            low, high = self._consumer.get_watermark_offsets(TopicPartition(*partition), timeout=TIMEOUT)
        except KafkaException as error:
            log.warning("kafka.positions_unknown", topic=partition.topic, error=str(error))
            return
        del self._out_of_range[partition]
        if low <= position <= high:
            self._assign_again(partition, position)
            return
        if not self._restart(partition, low):
            return
        if 0 <= position < low:
            self._on_restarted(Restart(partition=partition, reason="expired", lost=low - position))
        elif position > high:
            self._on_restarted(Restart(partition=partition, reason="truncated"))

    def _compare(self, topic: str, topic_id: str) -> None:
        known = self._ids.setdefault(topic, topic_id)
        if known == topic_id:
            return
        self._ids[topic] = topic_id
        for at in self._consumer.assignment():
            partition = Partition(at.topic, at.partition)
            if at.topic == topic and self._restart(partition, OFFSET_BEGINNING):
                self._out_of_range.pop(partition, None)
                self._on_restarted(Restart(partition=partition, reason="replaced"))

    def _restart(self, partition: Partition, offset: int) -> bool:
        """Read from ``offset``, not paused any more; False for a partition that is being given away."""
        self._consumer.resume([TopicPartition(*partition)])
        return self._assign_again(partition, offset)

    def _assign_again(self, partition: Partition, offset: int) -> bool:
        at = [TopicPartition(*partition, offset)]
        try:
            # A seek is refused where the client has stopped to fetch.
            self._consumer.incremental_unassign(at)
            self._consumer.incremental_assign(at)
        except KafkaException as error:
            log.warning("kafka.not_restarted", topic=partition.topic, error=str(error))
            return False
        return True

    def _ask(self, topics: set[str]) -> None:
        """Request the ids of topics; their futures are done later."""
        if topics:
            self._asked = self.admin().describe_topics(TopicCollection(list(topics)), request_timeout=TIMEOUT)

    def _wait_for_ids(self, topics: set[str]) -> dict[str, str]:
        self._ask(topics)
        answers, self._asked = self._asked, {}
        deadline = time.monotonic() + TIMEOUT
        found = {
            topic: _id_in(answer, max(0.0, deadline - time.monotonic())) for topic, answer in answers.items()
        }
        return {topic: topic_id for topic, topic_id in found.items() if topic_id}


def _noted(metadata: str | None) -> str | None:
    return metadata.removeprefix(_NOTE) if metadata and metadata.startswith(_NOTE) else None


def _id_in(answer: "Future[Any]", timeout: float = 0.0) -> str | None:
    """Return the id in the description of a topic; None where it is not known."""
    try:
        topic_id = str(answer.result(timeout).topic_id)
    except (KafkaException, TimeoutError):
        return None
    return topic_id if topic_id != _NO_ID else None
