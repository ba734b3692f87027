"""A reader of a whole topic: no group, nothing committed, a start in the past."""

import time
from typing import Any

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka import Message as VendorMessage

from pipeline.errors import ServiceRefusedError, ServiceUnavailableError
from pipeline.kafka.configuration import READ_COMMITTED, client_configuration, silent_log
from pipeline.kafka.consumer import record_of
from pipeline.kafka.errors import kafka_error
from pipeline.kafka.positions import Partition
from pipeline.kafka.records import ReceivedRecord
from pipeline.kafka.security import make_client
from pipeline.settings import Settings

log = structlog.get_logger()

#: Seconds one request at the opening may take.
TIMEOUT = 5.0


class LogReader:
    """Reads all partitions of one topic. One thread calls it, in the process that made it."""

    def __init__(self, settings: Settings, topic: str) -> None:
        self.topic = topic
        self._consumer = make_client(Consumer, _configuration(settings))
        #: The end of each partition when the reader was opened.
        self._ends: dict[Partition, int] = {}
        #: The next offset to read of each partition.
        self._next: dict[Partition, int] = {}
        #: Of each partition that had unread records at the last check, the next offset to read then.
        self._unread: dict[Partition, int] = {}

    def open(self, *, seconds: float, records: int) -> None:
        """Start at the later of ``seconds`` ago and the last ``records``; at the end when either is 0.

        Raises a ServiceError; call it again then.
        """
        try:
            self._next = {at: self._start(at, seconds, records) for at in self._partitions()}
            self._consumer.assign([TopicPartition(*at, offset) for at, offset in self._next.items()])
        except KafkaException as error:
            raise kafka_error(error, f"open topic {self.topic}") from error

    def poll(self, most: int, timeout: float) -> list[ReceivedRecord]:
        """Return up to ``most`` records; wait at most ``timeout`` seconds for the first and for no other.

        Brokers that are away are waited for. Raises a ServiceRefusedError for what waiting does not mend.
        """
        try:
            answers = self._consumer.consume(1, timeout)
            if answers and most > 1:
                answers += self._consumer.consume(most - 1, 0)
        except KafkaException as error:
            raise kafka_error(error, f"read {self.topic}") from error
        messages = [record_of(answer) for answer in answers if self._is_message(answer)]
        for message in messages:
            self._next[Partition(message.topic, message.partition)] = message.offset + 1
        return messages

    def is_past(self, message: ReceivedRecord) -> bool:
        """Whether the record was written before the reader was opened."""
        return message.offset < self._ends.get(Partition(message.topic, message.partition), 0)

    def has_caught_up(self) -> bool:
        """Whether all records written before have been read."""
        return all(self._next[partition] >= end for partition, end in self._ends.items())

    def check(self) -> None:
        """Raise ServiceUnavailableError if the reader is deaf: call it while ``poll`` returns nothing.

        It is if no broker answers, or if records that were there at the last check have still not come: after
        a broker was away a client may never fetch again.
        """
        try:
            unread = {at: offset for at, offset in self._next.items() if self._has_more(at, offset)}
        except KafkaException as error:
            raise kafka_error(error, f"read {self.topic}") from error
        deaf = unread.items() & self._unread.items()
        self._unread = unread
        if deaf:
            raise ServiceUnavailableError(f"Could not read {self.topic}: the client gets none of its records")

    def _has_more(self, partition: Partition, offset: int) -> bool:
        low, high = self._consumer.get_watermark_offsets(TopicPartition(*partition), timeout=TIMEOUT)
        return bool(high > max(offset, low))

    def close(self) -> None:
        """Close the client."""
        self._consumer.close()

    def _partitions(self) -> list[Partition]:
        topic = self._consumer.list_topics(self.topic, timeout=TIMEOUT).topics[self.topic]
        if topic.error:
            raise KafkaException(topic.error)
        return [Partition(self.topic, number) for number in topic.partitions]

    def _start(self, partition: Partition, seconds: float, records: int) -> int:
        low, high = self._consumer.get_watermark_offsets(TopicPartition(*partition), timeout=TIMEOUT)
        self._ends[partition] = high
        if not seconds or not records:
            return high
        return max(low, high - records, self._at(partition, seconds, high))

    def _at(self, partition: Partition, seconds: float, high: int) -> int:
        """Return the first offset of the last ``seconds``; ``high`` when no record is that young."""
        offset = self._offset_at(partition, round((time.time() - seconds) * 1000))
        if offset >= 0:
            return offset
        # librdkafka's mock cluster knows no times and gives the same answer for any: then only the
        # number of records bounds the past.
        return high if self._offset_at(partition, 0) >= 0 else 0

    def _offset_at(self, partition: Partition, timestamp_ms: int) -> int:
        [answer] = self._consumer.offsets_for_times(
            [TopicPartition(*partition, timestamp_ms)], timeout=TIMEOUT
        )
        if answer.error:
            raise KafkaException(answer.error)
        return int(answer.offset)

    def _is_message(self, answer: VendorMessage) -> bool:
        error = answer.error()
        if error is None:
            return True
        if error.code() == KafkaError.GROUP_AUTHORIZATION_FAILED:
            return False  # the client looks for its group's coordinator, which nothing here uses
        converted = kafka_error(error, f"read {self.topic}")
        if isinstance(converted, ServiceRefusedError):
            raise converted
        log.debug("kafka.log_error", topic=self.topic, error=str(converted))
        return False


def _configuration(settings: Settings) -> dict[str, Any]:
    return client_configuration(settings, "log") | {
        **READ_COMMITTED,
        "logger": silent_log,
        # The client insists on a group; it is never joined and commits nothing.
        "group.id": f"{settings.service_name}.control",
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        # Where retention overtook a slow reader.
        "auto.offset.reset": "earliest",
        # Memory for records fetched ahead.
        "queued.max.messages.kbytes": 8_192,
        "fetch.queue.backoff.ms": 50,
    }
