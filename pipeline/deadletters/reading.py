"""Reads dead letters: messages of the SQS queue, records of the Kafka DLQ topic and of the errors topic.

Every reader accepts anything: a part that cannot be read is missing in the letter, with the reason in it.
SQS keeps a message for 14 days at most, the errors topic its events for 30, and each has the message as it
was: a task's failure there stands in for a dead letter that SQS dropped.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from pipeline.deadletters.letter import UNEXPLAINED, DeadLetter, letter_id
from pipeline.errors import InvalidEventError, InvalidInputError
from pipeline.jobs import ref_of
from pipeline.kafka import Headers, ReceivedRecord
from pipeline.settings import Settings
from pipeline.sqs import ReceivedMessage
from pipeline.transport.envelope import open_envelope
from pipeline.wire import identity
from pipeline.wire.deadletter import (
    coordinates_of,
    decode_attributes,
    decode_headers,
    is_dead_letter,
    own_headers,
)
from pipeline.wire.events import PREFIX, Coordinates, Event, decode, job_named, redrive_of
from pipeline.wire.failure import ErrorEvent, Failure, decode_error_event, origin_of
from pipeline.wire.taskmessage import TaskHeader, data_of, read_header

#: SQS takes 80 of these characters, with the suffix.
QUEUE_NAME = re.compile(r"[A-Za-z0-9_-]{1,75}\.fifo")

#: The reason of a message that has none.
MOVED = (
    "SQS moved it here after it was received too often without an answer: no worker lived to report on it, "
    "or something else receives from the queue"
)


def read_task(settings: Settings, message: ReceivedMessage) -> DeadLetter:
    """Return the dead letter in a message of the queue."""
    payload, header, problem = open_task(message.body)
    headers: Mapping[str, Any] = payload.get("headers", {})
    explained = is_dead_letter(message.attributes, message.group_id)
    unexplained = Failure(
        **origin_of(header),
        task_id=headers.get("id"),
        error="unknown" if explained else UNEXPLAINED,
        reason=problem or MOVED,
        queue=_routing_key(payload) or settings.task_queue,
        group_id=None if explained else message.group_id,
        first_at=message.sent_at,
        failed_at=message.sent_at,
    )
    return DeadLetter(
        **decode_attributes(message.attributes, unexplained).facts(),
        id=message.message_id,
        place="sqs",
        task=headers.get("task"),
        headers=headers,
        data=_data_in(message.body, payload, header),
        ref=ref_of(header) if header else None,
        raw=message,
    )


def open_task(body: str) -> tuple[Mapping[str, Any], TaskHeader | None, str | None]:
    """Return a message's payload ({} where it is no Celery message), its header, and the error in it."""
    try:
        payload = open_envelope(body).payload
    except InvalidInputError as error:
        return {}, None, str(error)
    try:
        return payload, read_header(payload["headers"]), None
    except InvalidInputError as error:
        return payload, None, str(error)


def _data_in(body: str, payload: Mapping[str, Any], header: TaskHeader | None) -> str:
    """Return a message's data as text; the whole body where it is no Celery message."""
    if not payload:
        return body
    inner: str = payload["body"]
    try:
        return data_of(inner) if header else inner
    except InvalidInputError:
        return inner


def _routing_key(payload: Mapping[str, Any]) -> str | None:
    """Return the queue to which Celery sent a message, as the message itself says."""
    key = payload.get("properties", {}).get("delivery_info", {}).get("routing_key")
    return key if isinstance(key, str) and QUEUE_NAME.fullmatch(key) else None


def read_event(settings: Settings, record: ReceivedRecord) -> DeadLetter:
    """Return the dead letter in a record of the service's DLQ topic."""
    at, own = coordinates_of(record.headers), own_headers(record.headers)
    event = _decoded(record, at)
    redrive = redrive_of(own, at.topic, record.key, record.value) if at else None
    service, topic = settings.service_name, _logical_topic(settings, own, at)
    unexplained = Failure(
        job_id=event.job_in(service, topic)[0] if event else job_named(service, own, topic)[0],
        entity_id=event.entity_id if event else _text(record.key),
        error="unknown",
        reason="no bridge of this project put it here",
        generation=redrive.generation if redrive else 0,
        failed_at=record.timestamp_ms / 1000,
    )
    return DeadLetter(
        **decode_headers(record.headers, unexplained).facts(),
        id=letter_id("kafka", record.partition, record.offset),
        place="kafka",
        headers={name: _text(value) for name, value in own},
        data=_text(record.value),
        raw=record,
    )


def event_task_id(record: ReceivedRecord, at: Coordinates, stage: str) -> str:
    """Return the id of the task that a dead-lettered event makes in a stage; ``at``: where it was read."""
    event = _decoded(record, at)
    if event is not None:
        return identity.task_id(event.source, event.id, stage, None)
    first = redrive_of(own_headers(record.headers), at.topic, record.key, record.value) or at
    place = identity.plain_event_id(first.topic, first.partition, first.offset, first.timestamp_ms)
    return identity.task_id(f"kafka:{first.topic}", place, stage, None)


def _logical_topic(settings: Settings, own: Headers, at: Coordinates | None) -> str:
    """Return the logical topic of an event if its type names it; else empty."""
    types = [value.decode(errors="replace") for name, value in own if name.lower() == f"{PREFIX}type"]
    return types[-1] if types and at and settings.topic(types[-1]) == at.topic else ""


def _decoded(record: ReceivedRecord, at: Coordinates | None) -> Event | None:
    if at is None:
        return None
    try:
        own = own_headers(record.headers)
        return decode(key=record.key, value=record.value, headers=own, coordinates=at)
    except InvalidEventError:
        return None


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode(errors="replace")


def read_error(service: str, record: ReceivedRecord) -> DeadLetter | None:
    """Return the task's failure in a record of the errors topic; None for any other record.

    Services may share the topic: None for a task of another service, too.
    """
    event = _task_error(service, record)
    if event is None:
        return None
    payload, header, _ = open_task(event.data or "")
    part = header.part_label if header else event.part
    return DeadLetter(
        **(event.facts() | {"part": part}),
        id=letter_id("errors", record.partition, record.offset),
        place="errors",
        task=payload.get("headers", {}).get("task"),
        headers=event.headers,
        data=_data_in(event.data or "", payload, header),
        ref=ref_of(header) if header and not event.cut else None,
        raw=event,
    )


def newest_errors(service: str, records: Iterable[ReceivedRecord]) -> frozenset[str]:
    """Return the names of the last error event of each task: a redrive made the earlier ones obsolete.

    Of each message of it: one that somebody made up does not hide the true one.
    """
    newest: dict[int, tuple[tuple[int, float], str]] = {}
    for record in records:
        if (event := _task_error(service, record)) is not None and event.task_id is not None:
            name = letter_id("errors", record.partition, record.offset)
            found = (event.generation, event.failed_at), name
            sent = hash((event.task_id, event.data, event.queue, event.group_id))
            newest[sent] = max(found, newest.get(sent, found))
    return frozenset(name for _, name in newest.values())


def _task_error(service: str, record: ReceivedRecord) -> ErrorEvent | None:
    event = decode_error_event(record.value)
    return event if event and event.kind == "task" and event.service == service else None
