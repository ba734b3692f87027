"""Reads an event's dead letter: a record on the Kafka DLQ topic, and the marks of those that were handled."""

import re

from pipeline.deadletters.letter import DeadLetter
from pipeline.errors import InvalidEventError
from pipeline.events import Coordinates, Event, decode, job_named, redrive_of
from pipeline.kafka import Headers, Message, Record

#: Headers that the bridge adds to a dead letter after its own: where it was read, and why it is here.
DLQ_HEADERS = (
    "dlq_topic",
    "dlq_partition",
    "dlq_offset",
    "dlq_timestamp",
    "dlq_error",
    "dlq_reason",
    "dlq_stage",
)
#: Headers of a mark: which record of the topic was handled, and how.
HANDLED, HOW = "dlq_handled", "dlq_how"

_NAME = re.compile(r"kafka:(\d{1,9}):(\d{1,18})", re.ASCII)


def letter_id(partition: int, offset: int) -> str:
    """What a record of the DLQ topic is called in commands."""
    return f"kafka:{partition}:{offset}"


def is_letter_id(text: str) -> bool:
    """Whether it is such a name."""
    return _NAME.fullmatch(text) is not None


def mark(letter: DeadLetter, how: str) -> Record:
    """The record that says a dead letter was handled. Kafka deletes no single record before its time."""
    return Record(
        topic=letter.raw.topic if isinstance(letter.raw, Message) else "",
        key=letter.id.encode(),
        value=None,
        headers=((HANDLED, letter.id.encode()), (HOW, how.encode())),
    )


def marked(message: Message) -> str | None:
    """Which dead letter a mark is about; None for what is no mark."""
    return _last(message.headers).get(HANDLED)


def own_headers(message: Message) -> Headers:
    """The headers that the event itself came with."""
    return tuple(header for header in message.headers if header[0] not in DLQ_HEADERS)


def origin(message: Message) -> Coordinates | None:
    """Where the event was read; None for a record that no bridge put there."""
    headers = _last(message.headers)
    topic, timestamp = headers.get("dlq_topic"), _number(headers.get("dlq_timestamp"))
    partition, offset = _number(headers.get("dlq_partition")), _number(headers.get("dlq_offset"))
    if not topic or partition is None or offset is None:
        return None
    return Coordinates(topic=topic, partition=partition, offset=offset, timestamp_ms=timestamp or -1)


def read_event(message: Message, service: str) -> DeadLetter:
    """The dead letter in a record of a service's topic. What cannot be read is told, never raised."""
    headers, at = _last(message.headers), origin(message)
    event = _decoded(message, at)
    redrive = redrive_of(own_headers(message))
    job_id, _ = event.job_in(service) if event else job_named(service, own_headers(message))
    return DeadLetter(
        id=letter_id(message.partition, message.offset),
        place="kafka",
        error=headers.get("dlq_error") or "unknown",
        reason=headers.get("dlq_reason") or "no bridge of this project put it here",
        source=at.topic if at else None,
        job_id=job_id,
        stage=headers.get("dlq_stage") or None,
        entity_id=event.entity_id if event else _text(message.key),
        generation=redrive.generation if redrive else 0,
        first_at=at.timestamp_ms / 1000 if at and at.timestamp_ms > 0 else None,
        failed_at=message.timestamp_ms / 1000,
        topic=at.topic if at else None,
        partition=at.partition if at else None,
        offset=at.offset if at else None,
        headers={name: _text(value) for name, value in own_headers(message)},
        data=_text(message.value),
        raw=message,
    )


def _decoded(message: Message, at: Coordinates | None) -> Event | None:
    if at is None:
        return None
    try:
        return decode(key=message.key, value=message.value, headers=own_headers(message), coordinates=at)
    except InvalidEventError:
        return None


def _last(headers: Headers) -> dict[str, str]:
    """Headers by name; of two with one name the last, which the bridge added."""
    return {name: value.decode(errors="replace") for name, value in headers}


def _number(text: str | None) -> int | None:
    try:
        return int(text or "")
    except ValueError:
        return None


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode(errors="replace")
