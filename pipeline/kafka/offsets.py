"""Offsets of a consumer group: what it has committed and how far it is behind, read without joining it."""

import time
from collections.abc import Callable, Collection, Iterable
from typing import Any, TypeVar

from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, Consumer, KafkaException, TopicPartition

from pipeline.errors import ServiceUnavailableError
from pipeline.kafka.configuration import client_configuration
from pipeline.kafka.errors import kafka_error
from pipeline.kafka.positions import Partition
from pipeline.kafka.security import make_client
from pipeline.settings import Settings

#: Seconds one request may take.
TIMEOUT = 15.0

#: Seconds between two tries while the group's coordinator is being found, as on a cluster just started.
RETRY_AFTER = 0.2

Answer = TypeVar("Answer")


class GroupOffsets:
    """Reads the offsets of one group by a consumer that never subscribes.

    The admin request for committed offsets (ListConsumerGroupOffsets of librdkafka 2.16.0) ends the process
    with a segmentation fault while a broker goes and comes back; a consumer's requests fail with an error.

    The client is made at the first request: make the object and use it in one process, from one thread at a
    time. A request lasts ``timeout`` seconds at most. After one that failed the next has a new client: one
    that never subscribes may find no broker long after all are back (as in librdkafka 2318; seen for 54 s).
    """

    def __init__(self, settings: Settings, group: str, timeout: float = TIMEOUT) -> None:
        self._settings = settings
        self._group = group
        self._timeout = timeout
        self._made: Consumer | None = None

    def partitions(self, topics: Collection[str] | None = None) -> list[Partition]:
        """Return the partitions of existing topics; of all topics without ``topics``."""
        # No topic is asked for by name: a broker may create it.
        metadata: Any = self._ask("list topics", lambda left: self._client.list_topics(timeout=left))
        return [
            Partition(name, number)
            for name, topic in metadata.topics.items()
            if not topic.error and (topics is None or name in topics)
            for number in sorted(topic.partitions)
        ]

    def watermarks(self, topics: Collection[str]) -> dict[Partition, tuple[int, int]]:
        """Return the first offset kept and the next one to be written, by partition of existing topics."""
        partitions = self.partitions(topics)
        low, high = (self._offsets(partitions, which) for which in (OFFSET_BEGINNING, OFFSET_END))
        return {partition: (low[partition], high[partition]) for partition in partitions}

    def committed(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """Return the next offset that the group will read, of those partitions that it has committed."""
        asked = [TopicPartition(*partition) for partition in partitions]
        if not asked:
            return {}
        answers = self._ask(
            f"read the offsets of group {self._group}",
            lambda left: _sound(self._client.committed(asked, timeout=left)),
        )
        return {Partition(at.topic, at.partition): at.offset for at in answers if at.offset >= 0}

    def lag(self, topics: Collection[str]) -> dict[Partition, int]:
        """Return the events of each partition that are not committed; all that is kept without a commit."""
        positions = self.positions(topics)
        return {partition: max(0, end - committed) for partition, (committed, end) in positions.items()}

    def positions(self, topics: Collection[str]) -> dict[Partition, tuple[int, int]]:
        """Return the next offset that the group will read, and the next one to be written, by partition."""
        marks = self.watermarks(topics)
        committed = self.committed(marks)
        return {
            partition: (max(committed.get(partition, low), low), high)
            for partition, (low, high) in marks.items()
        }

    def close(self) -> None:
        """Close the client; another request would make a new one."""
        if self._made is not None:
            self._made.close()
            self._made = None

    @property
    def _client(self) -> Consumer:
        if self._made is None:
            self._made = make_client(Consumer, _configuration(self._settings, self._group))
        return self._made

    def _offsets(self, partitions: list[Partition], which: int) -> dict[Partition, int]:
        if not partitions:
            return {}
        asked = [TopicPartition(*partition, which) for partition in partitions]
        answers = self._ask(
            "read the watermarks of topics",
            lambda left: _sound(self._client.offsets_for_times(asked, timeout=left)),
        )
        return {Partition(at.topic, at.partition): at.offset for at in answers}

    def _ask(self, action: str, request: Callable[[float], Answer]) -> Answer:
        # Errors and log lines of the client are queued until they are taken.
        self._client.consume(100, 0)
        left = self._timeout
        deadline = time.monotonic() + left
        while True:
            try:
                return request(left)
            except KafkaException as error:
                left = deadline - time.monotonic() - RETRY_AFTER
                converted = kafka_error(error, action)
                if not isinstance(converted, ServiceUnavailableError) or left <= 0:
                    self.close()
                    raise converted from error
                time.sleep(RETRY_AFTER)


def _sound(answers: list[TopicPartition]) -> list[TopicPartition]:
    for at in answers:
        if at.error is not None:
            raise KafkaException(at.error)
    return answers


def _configuration(settings: Settings, group: str) -> dict[str, Any]:
    return client_configuration(settings, "offsets") | {
        "group.id": group,
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        # The end of a partition is where the next record is written, also while a transaction is open.
        "isolation.level": "read_uncommitted",
    }
