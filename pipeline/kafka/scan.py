"""Reads a topic from its beginning to where it ends now, as no member of any group: nothing is committed."""

import time
from collections.abc import Iterator

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from config.settings import Settings
from pipeline.errors import ServiceUnavailableError
from pipeline.kafka.configuration import client_configuration
from pipeline.kafka.consumer import received
from pipeline.kafka.errors import kafka_error
from pipeline.kafka.records import Message
from pipeline.kafka.security import made

#: Records asked for at once, and the seconds one question lasts at most.
MOST, POLL = 500, 0.2


def scan(settings: Settings, topic: str, timeout: float = 30.0) -> Iterator[Message]:
    """Every record that is on ``topic`` now, each partition in its order; what comes later is not waited for.

    Raises a ServiceError for a topic that is missing, and when no record comes for ``timeout`` seconds.
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


def _read(consumer: Consumer, topic: str, ends: dict[int, int], timeout: float) -> Iterator[Message]:
    deadline = time.monotonic() + timeout
    while ends:
        if time.monotonic() > deadline:
            raise ServiceUnavailableError(f"Could not read {topic}: no record came for {timeout:g} s")
        for answer in consumer.consume(MOST, POLL):
            deadline = time.monotonic() + timeout
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
