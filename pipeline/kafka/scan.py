"""One-time reads of a topic outside any group: all its records, or the newest. Nothing is committed."""

import time
from collections.abc import Iterable, Iterator

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka import Message as VendorMessage

from pipeline.errors import ServiceUnavailableError
from pipeline.kafka.configuration import READ_COMMITTED, client_configuration
from pipeline.kafka.consumer import record_of
from pipeline.kafka.errors import kafka_error
from pipeline.kafka.records import ReceivedRecord
from pipeline.kafka.security import make_client
from pipeline.settings import Settings

#: Records asked for at once, and the seconds one question lasts at most.
MOST, POLL = 500, 0.2


def scan(
    settings: Settings, topic: str, timeout: float = 30.0, *, since: float | None = None
) -> Iterator[ReceivedRecord]:
    """Yield every record that is on ``topic`` now, each partition in its order; do not wait for later ones.

    With ``since`` (seconds since 1970) from the first of each partition that is not older; from the beginning
    where the brokers know no times (librdkafka's mock cluster). Raises a ServiceError for a topic that is
    missing, and when no record comes for ``timeout`` seconds.
    """
    consumer = _consumer(settings, "scan")
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


def newest_records(settings: Settings, topic: str, count: int, timeout: float = 10.0) -> list[ReceivedRecord]:
    """Return the newest ``count`` records of ``topic`` over all its partitions, the oldest of them first.

    Raises a ServiceError for a topic that is missing, and when they do not come within ``timeout`` seconds.
    """
    consumer = _consumer(settings, "peek")
    deadline = time.monotonic() + timeout
    try:
        starts = _starts(consumer, topic, count, timeout)
        consumer.assign(starts)
        found = _read_to_end(consumer, topic, len(starts), deadline)
    except KafkaException as error:
        raise kafka_error(error, f"look at {topic}") from error
    finally:
        consumer.close()
    return sorted(found, key=lambda record: (record.timestamp_ms, record.partition, record.offset))[-count:]


def _starts(consumer: Consumer, topic: str, count: int, timeout: float) -> list[TopicPartition]:
    """Return where to start in each partition that holds records: ``count`` records before its end."""
    return [
        TopicPartition(topic, number, max(low, high - count))
        for number, (low, high) in _ends(consumer, topic, timeout).items()
    ]


def _read_to_end(consumer: Consumer, topic: str, partitions: int, deadline: float) -> list[ReceivedRecord]:
    """Read each assigned partition to its end."""
    found: list[ReceivedRecord] = []
    while partitions:
        left = deadline - time.monotonic()
        if left <= 0:
            raise ServiceUnavailableError(f"Could not look at {topic}: its records did not come in time")
        for answer in consumer.consume(500, min(left, 0.2)):
            error = answer.error()
            if error is None:
                found.append(record_of(answer))
            elif error.code() == KafkaError._PARTITION_EOF:
                partitions -= 1
            else:
                raise KafkaException(error)
    return found


def _consumer(settings: Settings, name: str) -> Consumer:
    configuration = client_configuration(settings, name) | {
        **READ_COMMITTED,
        # The client requires a group's name, though no group is joined.
        "group.id": f"{settings.service_name}-{name}",
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        # Where retention removes the beginning meanwhile.
        "auto.offset.reset": "earliest",
        "enable.partition.eof": True,
    }
    return make_client(Consumer, configuration)


def _ends(consumer: Consumer, topic: str, timeout: float) -> dict[int, tuple[int, int]]:
    """Return the first and the next offset of each partition that holds records."""
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
    """Return the same without older records; partitions with older records only are left out."""
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
    """Return the first offset of each partition at or after a moment (ms since 1970); -1 for none."""
    asked = [TopicPartition(topic, number, moment_ms) for number in partitions]
    answers = consumer.offsets_for_times(asked, timeout=timeout) if asked else []
    for answer in answers:
        if answer.error:
            raise KafkaException(answer.error)
    return {answer.partition: int(answer.offset) for answer in answers}


def _read(consumer: Consumer, topic: str, ends: dict[int, int], timeout: float) -> Iterator[ReceivedRecord]:
    while ends:
        # Each wait by itself: the caller may take minutes between two records.
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
            message = record_of(answer)
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
