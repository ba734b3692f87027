"""Looks at the newest records of a topic, as no member of any group: nothing is committed or moved."""

import time

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from config.settings import Settings
from pipeline.errors import ServiceUnavailableError
from pipeline.kafka.configuration import client_configuration
from pipeline.kafka.consumer import received
from pipeline.kafka.errors import kafka_error
from pipeline.kafka.records import Message
from pipeline.kafka.security import made


def newest_messages(settings: Settings, topic: str, count: int, timeout: float = 10.0) -> list[Message]:
    """The newest ``count`` records of ``topic`` over all its partitions, the oldest of them first.

    Raises a ServiceError for a topic that is missing, and when they do not come within ``timeout`` seconds.
    """
    consumer = made(
        Consumer,
        client_configuration(settings, "peek")
        # A group's name is asked for though no group is joined.
        | {
            "group.id": f"{settings.service_name}-peek",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
        },
    )
    deadline = time.monotonic() + timeout
    try:
        starts = _starts(consumer, topic, count, timeout)
        consumer.assign(starts)
        found = _read(consumer, topic, len(starts), deadline)
    except KafkaException as error:
        raise kafka_error(error, f"look at {topic}") from error
    finally:
        consumer.close()
    return sorted(found, key=lambda message: (message.timestamp_ms, message.partition, message.offset))[
        -count:
    ]


def _starts(consumer: Consumer, topic: str, count: int, timeout: float) -> list[TopicPartition]:
    """Where to read each partition that holds anything: ``count`` records before its end."""
    metadata = consumer.list_topics(timeout=timeout).topics.get(topic)
    if metadata is None or metadata.error:
        raise KafkaException(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART))
    starts = []
    for number in metadata.partitions:
        low, high = consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=timeout)
        if high > low:
            starts.append(TopicPartition(topic, number, max(low, high - count)))
    return starts


def _read(consumer: Consumer, topic: str, partitions: int, deadline: float) -> list[Message]:
    """Read each assigned partition to its end."""
    found: list[Message] = []
    while partitions:
        left = deadline - time.monotonic()
        if left <= 0:
            raise ServiceUnavailableError(f"Could not look at {topic}: its records did not come in time")
        for answer in consumer.consume(500, min(left, 0.2)):
            error = answer.error()
            if error is None:
                found.append(received(answer))
            elif error.code() == KafkaError._PARTITION_EOF:
                partitions -= 1
            else:
                raise KafkaException(error)
    return found
