"""Reads a topic to where it ends now, as no member of any group: nothing is committed."""

import time
from collections.abc import Iterable, Iterator

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka import Message as VendorMessage

from config.settings import Settings
from pipeline.errors import ServiceUnavailableError
from pipeline.kafka.configuration import client_configuration
from pipeline.kafka.consumer import received
from pipeline.kafka.errors import kafka_error
from pipeline.kafka.records import Message
from pipeline.kafka.security import made

#: Records asked for at once, and the seconds one question lasts at most.
MOST, POLL = 500, 0.2


def scan(
    settings: Settings, topic: str, timeout: float = 30.0, *, since: float | None = None
) -> Iterator[Message]:
    """Every record that is on ``topic`` now, each partition in its order; what comes later is not waited for.

    With ``since`` (seconds since 1970) from the first of each partition that is not older; where the brokers
    know no times (librdkafka's mock cluster) from the beginning. Raises a ServiceError for a topic that is
    missing, and when no record comes for ``timeout`` seconds.
    """
    consumer = made(
        Consumer,
        client_configuration(settings, "scan")
        # A group's name is asked for though no group is joined.
        | {
            "group.id": f"{settings.service_name}-scan",
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            # Where retention took the beginning away meanwhile.
            "auto.offset.reset": "earliest",
            "enable.partition.eof": True,
        },
    )
    try:
        ends = _ends(consumer, topic, timeout)
        if since is not None:
            ends = _since(consumer, topic, ends, int(since * 1000), timeout)
        consumer.assign([TopicPartition(topic, number, low) for number, (low, _) in ends.items()])
        yield from _read(consumer, topic, {number: high for number, (_, high) in ends.items()}, timeout)
    except KafkaException as error:
        raise kafka_error(error, f"read {topic}") from error
    finally:
        consumer.close()


def _ends(consumer: Consumer, topic: str, timeout: float) -> dict[int, tuple[int, int]]:
    """First and next offset of each partition that holds anything."""
    metadata = consumer.list_topics(timeout=timeout).topics.get(topic)
    if metadata is None or metadata.error:
        raise KafkaException(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART))
    marks = {
        number: consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=timeout)
        for number in metadata.partitions
    }
    return {number: (low, high) for number, (low, high) in marks.items() if high > low}


def _since(
    consumer: Consumer, topic: str, ends: dict[int, tuple[int, int]], since_ms: int, timeout: float
) -> dict[int, tuple[int, int]]:
    """The same without what is older; partitions where all is older are left out."""
    found = _offsets_at(consumer, topic, ends, since_ms, timeout)
    # The mock cluster answers -1 (no such record) for any time, even for the beginning of time.
    timeless = any(offset < 0 for offset in _offsets_at(consumer, topic, ends, 0, timeout).values())
    starts = {number: 0 if timeless and offset < 0 else offset for number, offset in found.items()}
    return {
        number: (max(low, starts[number]), high)
        for number, (low, high) in ends.items()
        if 0 <= starts[number] < high
    }


def _offsets_at(
    consumer: Consumer, topic: str, partitions: Iterable[int], moment_ms: int, timeout: float
) -> dict[int, int]:
    """The first offset of each partition at or after a moment (milliseconds since 1970); -1 for none."""
    asked = [TopicPartition(topic, number, moment_ms) for number in partitions]
    answers = consumer.offsets_for_times(asked, timeout=timeout) if asked else []
    for answer in answers:
        if answer.error:
            raise KafkaException(answer.error)
    return {answer.partition: int(answer.offset) for answer in answers}


def _read(consumer: Consumer, topic: str, ends: dict[int, int], timeout: float) -> Iterator[Message]:
    while ends:
        # Each wait by itself: who takes the records may take minutes between two.
        for answer in _next(consumer, topic, timeout):
            partition, error = answer.partition(), answer.error()
            if error is not None and error.code() != KafkaError._PARTITION_EOF:
                raise KafkaException(error)
            if partition not in ends:
                continue
            if error is not None:
                # Transaction markers and compaction take offsets: the end is reached without a last record.
                del ends[partition]
                continue
            message = received(answer)
            if message.offset < ends[partition]:
                yield message
            if message.offset + 1 >= ends[partition]:
                del ends[partition]


def _next(consumer: Consumer, topic: str, timeout: float) -> list[VendorMessage]:
    deadline = time.monotonic() + timeout
    while not (answers := consumer.consume(MOST, POLL)):
        if time.monotonic() > deadline:
            raise ServiceUnavailableError(f"Could not read {topic}: no record came for {timeout:g} s")
    return answers
