"""Ids as functions of their input: a replay anywhere makes the same task and the same event.

Every id is a version 5 UUID over a JSON array. An array keeps its elements apart, which a concatenation
does not: ("ab", "c") and ("a", "bc") must not be one task.

A change of anything in this file is a change of wire format: tasks that wait in a queue during a
deployment would count as new ones, and run again.
"""

import hashlib
import json
import re
from functools import lru_cache
from typing import Final
from uuid import UUID

NAMESPACE: Final = UUID("5a4ad0a6-9d0e-4c55-8a32-0f6d5f3c7f11")

#: The variant of RFC 9562 in place of the highest two bits of a digit.
_VARIANT: Final = {digit: "89ab"[int(digit, 16) % 4] for digit in "0123456789abcdef"}

#: The purpose of a task: an event (None), one part of a split (its ordinal), the gather of its results
#: ("gather"), or the sending of its parts from a page on ("page-8").
Part = int | str | None

#: The characters and lengths SQS takes in a MessageGroupId and a MessageDeduplicationId
#: (SendMessage, API reference: 128 characters, alphanumeric and ASCII punctuation).
_SQS_ID: Final = re.compile(r"[!-~]{1,128}")


#: Encodes what is hashed. Made once: ``json.dumps`` makes one for each call with these separators.
_encode: Final = json.JSONEncoder(separators=(",", ":")).encode


# A worker asks for a task's id at its receive, when it looks it up, and when it emits and records it.
@lru_cache(maxsize=4_096)
def task_id(source: str, event_id: str, stage: str, part: Part) -> str:
    """Return the id of the task that an event makes in a stage.

    ``part`` is None for the task an event itself makes (a run without split, or the split of a split
    stage), an ordinal for one part, ``"gather"`` for the gather, ``"page-8"`` for a page task.
    """
    return _uuid(source, event_id, stage, part)


def emitted_event_id(task_id: str) -> str:
    """Return the id of the event that a task emits."""
    return _uuid(task_id, "emitted")


def job_id(source: str, event_id: str) -> str:
    """Return the id of the job that an event begins."""
    return _uuid("job", source, event_id)


def submitted_event_id(source: str, topic: str, key: str) -> str:
    """Return the id of the event that begins a job on a topic under a key of the submitter's own."""
    return _uuid("submitted", source, topic, key)


def scheduled_task_id(service: str, schedule: str, tick: int) -> str:
    """Return the id of the plain task of a schedule's tick, in seconds since 1970."""
    return _uuid("scheduled", service, schedule, tick)


def further_job_id(job_id: str, topic: str) -> str:
    """Return the id of the job that an event begins on a topic, if it began ``job_id`` on another topic."""
    return _uuid("job-on-topic", job_id, topic)


def closed_event_id(job_id: str, outcome: str, redrives: int) -> str:
    """Return the id of the event that announces how a job ended.

    ``redrives`` is part of it: a job that fails again after a redrive has failed anew.
    """
    return _uuid("closed", job_id, outcome, redrives)


def error_event_id(task_id: str, message_id: str) -> str:
    """Return the id of the error event of a task that was given up on as SQS message ``message_id``."""
    return _uuid("error", task_id, message_id)


def errbacks_task_id(task_id: str, message_id: str) -> str:
    """Return the id of the task that calls the errbacks of a task given up on as ``message_id``."""
    return _uuid("errbacks", task_id, message_id)


def plain_event_id(topic: str, partition: int, offset: int, timestamp_ms: int) -> str:
    """Return the id of an event without one. The timestamp distinguishes a topic that was made again."""
    return _uuid("plain", topic, partition, offset, timestamp_ms)


def consumed_event_id(source: str, event_id: str, index: int) -> str:
    """Return the id of an event that a consumer makes of a record, as the record's ``index``-th, from 0."""
    return _uuid("consumed", source, event_id, index)


def replayed_event_id(replay_id: str, source: str, event_id: str) -> str:
    """Return the id of an event as a new one in a replay; the same again in the same replay."""
    return _uuid("replay", replay_id, source, event_id)


def replayed_job_id(replay_id: str, job_id: str) -> str:
    """Return the id of the new job that a replay makes of a job."""
    return _uuid("replayed-job", replay_id, job_id)


def group_id(task_id: str, entity_id: str, ordered: bool) -> str:
    """Return the MessageGroupId: the entity's if its order counts, else one of the task's own.

    An entity id that SQS would refuse is hashed; the same entity always gives the same group.
    """
    if not ordered:
        return task_id
    if _SQS_ID.fullmatch(entity_id):
        return entity_id
    return hashlib.sha256(entity_id.encode("utf-8", "surrogatepass")).hexdigest()


def is_sqs_id(value: object) -> bool:
    """Whether SQS takes it as a message group or deduplication id."""
    return isinstance(value, str) and _SQS_ID.fullmatch(value) is not None


def publish_deduplication_id(task_id: str, retries: int, nesting: int, eta: str | None, redrives: int) -> str:
    """Return the MessageDeduplicationId of a plain Celery publish.

    ``self.retry`` and ``self.replace`` publish the same task id again; with the task id alone SQS would
    drop the second message, and the task with it.
    """
    return _uuid("publish", task_id, retries, nesting, eta, redrives)


def _uuid(*parts: str | int | None) -> str:
    """Return ``uuid5(NAMESPACE, …)`` of the array, at half its cost: each event has several ids."""
    digits = hashlib.sha1(NAMESPACE.bytes + _encode(parts).encode(), usedforsecurity=False).hexdigest()
    return (
        f"{digits[:8]}-{digits[8:12]}-5{digits[13:16]}-{_VARIANT[digits[16]]}{digits[17:20]}-{digits[20:32]}"
    )
