"""Reads a task's failure as the errors topic tells it: what is left of a dead letter that SQS dropped.

SQS keeps a message for 14 days at most, the topic its events for 30, and each has the message as it was.
"""

import re
from collections.abc import Iterable

from pydantic import ValidationError

from pipeline.deadletters.letter import DeadLetter
from pipeline.deadletters.tasks import data_in, open_task, part_of
from pipeline.errorevents import ErrorEvent
from pipeline.kafka import Message
from pipeline.worker.work import ref_of

_NAME = re.compile(r"errors:(\d{1,9}):(\d{1,18})", re.ASCII)


def told_id(partition: int, offset: int) -> str:
    """What a task's error event is called in commands."""
    return f"errors:{partition}:{offset}"


def is_told_id(text: str) -> bool:
    """Whether it is such a name."""
    return _NAME.fullmatch(text) is not None


def newest_of_each(service: str, messages: Iterable[Message]) -> frozenset[str]:
    """The names of the last event of each task of a service: what it was redriven as before is over."""
    newest: dict[str, tuple[tuple[int, float], str]] = {}
    for message in messages:
        if (event := _event(service, message)) is not None and event.task_id is not None:
            found = (event.generation, event.failed_at), told_id(message.partition, message.offset)
            newest[event.task_id] = max(found, newest.get(event.task_id, found))
    return frozenset(name for _, name in newest.values())


def read_told(service: str, message: Message) -> DeadLetter | None:
    """The task's failure in a record of the errors topic; None for another event, or what is none.

    Services may share the topic: None for a task of another one, too.
    """
    event = _event(service, message)
    if event is None:
        return None
    payload, header, _ = open_task(event.data or "")
    return DeadLetter(
        id=told_id(message.partition, message.offset),
        place="errors",
        error=event.error,
        reason=event.message,
        source=event.queue,
        job_id=event.job_id,
        stage=event.stage,
        part=part_of(header) or event.part,
        entity_id=event.entity_id,
        task=payload.get("headers", {}).get("task"),
        task_id=event.task_id,
        attempts=event.attempts,
        worker=event.worker,
        generation=event.generation,
        first_at=event.first_at,
        failed_at=event.failed_at,
        topic=event.topic,
        partition=event.partition,
        offset=event.offset,
        group_id=event.group_id,
        ordered=event.group_id is not None and event.group_id != event.task_id,
        traceback=event.traceback,
        headers=event.headers,
        data=data_in(event.data or "", payload, header),
        ref=ref_of(header) if header and not event.cut else None,
        raw=event,
    )


def _event(service: str, message: Message) -> ErrorEvent | None:
    try:
        event = ErrorEvent.model_validate_json(message.value or b"")
    except ValidationError:
        return None
    return event if event.kind == "task" and event.service == service else None
