"""Reads a task's dead letter: a message on the SQS dead-letter queue, whatever it holds."""

import re
from collections.abc import Mapping
from typing import Any

from config.settings import Settings
from pipeline.deadletters.letter import UNEXPLAINED, DeadLetter
from pipeline.errors import InvalidInputError
from pipeline.sqs import ReceivedMessage
from pipeline.taskmessage import (
    ATTEMPTS,
    DEAD_GROUP,
    ERROR,
    FAILED_AT,
    GROUP,
    REASON,
    SOURCE_QUEUE,
    TRACEBACK,
    WORKER,
    TaskHeader,
    data_of,
    first_at_of,
    generation_of,
    moment_of,
    read_header,
)
from pipeline.transport.envelope import open_envelope
from pipeline.worker.work import ref_of

#: SQS takes 80 of these characters, with the suffix.
_QUEUE_NAME = re.compile(r"[A-Za-z0-9_-]{1,75}\.fifo")

#: What is said of a message that has no reason with it.
MOVED = (
    "SQS moved it here after it was received too often without an answer: no worker lived to report on it, "
    "or something else receives from the queue"
)


def read_task(settings: Settings, message: ReceivedMessage) -> DeadLetter:
    """The dead letter in a message of the queue. What cannot be read is told, never raised."""
    payload, header, problem = open_task(message.body)
    headers: Mapping[str, Any] = payload.get("headers", {})
    attributes = message.attributes
    group = attributes.get(GROUP) or (None if _is_buried(message) else message.group_id)
    task_id = headers.get("id")
    return DeadLetter(
        id=message.message_id,
        place="sqs",
        error=attributes.get(ERROR) or ("unknown" if _is_buried(message) else UNEXPLAINED),
        reason=attributes.get(REASON) or problem or MOVED,
        source=attributes.get(SOURCE_QUEUE) or _routing_key(payload) or settings.task_queue,
        job_id=header.job_id if header else None,
        stage=header.stage if header else None,
        part=part_of(header),
        entity_id=header.entity_id if header else None,
        task=headers.get("task"),
        task_id=task_id,
        attempts=_count(attributes.get(ATTEMPTS, "")),
        worker=attributes.get(WORKER),
        generation=generation_of(attributes),
        first_at=first_at_of(attributes) or message.sent_at,
        failed_at=moment_of(attributes, FAILED_AT) or message.sent_at,
        topic=header.topic if header else None,
        partition=header.partition if header else None,
        offset=header.offset if header else None,
        group_id=group,
        ordered=group is not None and task_id is not None and group != task_id,
        traceback=attributes.get(TRACEBACK, ""),
        headers=headers,
        data=data_in(message.body, payload, header),
        ref=ref_of(header) if header else None,
        raw=message,
    )


def open_task(body: str) -> tuple[Mapping[str, Any], TaskHeader | None, str | None]:
    """A message's payload ({} for what is no Celery message), its header, and what is wrong with it."""
    try:
        payload = open_envelope(body)
    except InvalidInputError as error:
        return {}, None, str(error)
    try:
        return payload, read_header(payload["headers"]), None
    except InvalidInputError as error:
        return payload, None, str(error)


def part_of(header: TaskHeader | None) -> str | None:
    """Which part of a split a task is ("3/20"), or its role in its stage; None for what is no stage's."""
    if header is None:
        return None
    return f"{header.part.ordinal}/{header.part.total}" if header.part else header.role


def data_in(body: str, payload: Mapping[str, Any], header: TaskHeader | None) -> str:
    """The data that a message brought, as text; all of one that is no Celery message."""
    if not payload:
        return body
    inner: str = payload["body"]
    try:
        return data_of(inner) if header else inner
    except InvalidInputError:
        return inner


def _is_buried(message: ReceivedMessage) -> bool:
    """Whether a worker or the watcher put it here: SQS itself keeps a message's group."""
    return REASON in message.attributes or message.group_id.startswith(DEAD_GROUP)


def _routing_key(payload: Mapping[str, Any]) -> str | None:
    """The queue Celery sent it to, as the message itself says."""
    key = payload.get("properties", {}).get("delivery_info", {}).get("routing_key")
    return key if isinstance(key, str) and _QUEUE_NAME.fullmatch(key) else None


def _count(text: str) -> int:
    return int(text) if text.isdecimal() and text.isascii() and len(text) < 10 else 0
