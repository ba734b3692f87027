"""Failures: why a task or an event was given up on and where it came from; and its event on the errors topic.

``Failure`` is the one description. It travels as an error event (below), as attributes of a message on the
SQS dead-letter queue and as headers of a record on the Kafka DLQ topic (``pipeline.wire.deadletter``).
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError, field_validator
from pydantic.dataclasses import dataclass as validated

from pipeline.wire.events import ENTITY_LIMIT, TRACEPARENT, trace_of
from pipeline.wire.redaction import redact, redact_values
from pipeline.wire.taskmessage import TaskHeader

#: Characters of original data that are kept: the errors topic takes 8 MiB, SQS and Kafka messages 1 MiB.
DATA_LIMIT: Final = 2_000_000
#: Bytes of the largest error event: a character of data may become six in JSON, and an event that the topic
#: refuses would block every failure behind it.
ERROR_LIMIT: Final = 8_000_000
#: Characters of data in the brief version.
BRIEF_LIMIT: Final = 2_000


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a task or an event was given up on, and where it came from. Times are seconds since 1970."""

    job_id: str | None = None
    stage: str | None = None
    task_id: str | None = None
    #: the part's ordinal of its total ("3/20"), or the role of the task in its stage
    part: str | None = None
    entity_id: str | None = None
    #: failed runs
    attempts: int = 0
    #: the exception's class
    error: str
    #: the exception's message
    reason: str
    traceback: str = ""
    #: the Celery node name of the worker; None where none was at work
    worker: str | None = None
    #: how often it was redriven before
    generation: int = 0
    #: when its first message was sent, and when it was given up on
    first_at: float | None = None
    failed_at: float
    #: the queue and message group of a task's message
    queue: str | None = None
    group_id: str | None = None
    #: where on Kafka the event was read
    topic: str | None = None
    partition: int | None = None
    offset: int | None = None

    def facts(self) -> dict[str, Any]:
        """Return the fields of a Failure by name, without those that a subclass adds."""
        return {each.name: getattr(self, each.name) for each in fields(Failure)}

    def digest(self, body: str) -> str:
        """Return a hash of a failed task's message, and of how a redrive sends it.

        The job's record keeps it, so that an event on the errors topic proves itself (ADR 21).
        """
        sent = json.dumps([body, self.queue, self.group_id, self.generation])
        return hashlib.sha256(sent.encode()).hexdigest()


def origin_of(header: TaskHeader | None) -> dict[str, Any]:
    """Return the fields of a Failure that a stage's task carries in its header; none for a plain task."""
    if header is None:
        return {}
    return {
        "job_id": header.job_id,
        "stage": header.stage,
        "part": header.part_label,
        "entity_id": header.entity_id,
        "topic": header.topic,
        "partition": header.partition,
        "offset": header.offset,
    }


@validated(
    frozen=True,
    kw_only=True,
    config=ConfigDict(
        title="Data of an error event",
        alias_generator=lambda name: "message" if name == "reason" else name,
        validate_by_alias=True,
        validate_by_name=True,
    ),
)
class ErrorEvent(Failure):
    """The data of an error event. Times are seconds since 1970."""

    #: "task": a task message went to the SQS dead-letter queue. "event": an event went to the Kafka DLQ
    #: topic. "job": a job ended with failures.
    kind: Literal["task", "event", "job"]
    service: str
    #: the original data or message, as text; cut at DATA_LIMIT
    data: str | None = None
    #: the original headers
    headers: dict[str, Any] = field(default_factory=dict)
    #: whether some of the data or the headers had to be left out
    cut: bool = False

    @field_validator("reason", "traceback")
    @classmethod
    def _redact(cls, text: str) -> str:
        return redact(text)

    @field_validator("headers")
    @classmethod
    def _redact_headers(cls, headers: dict[str, Any]) -> dict[str, Any]:
        return redact_values(headers)

    def encode(self) -> bytes:
        """Return the JSON that the errors topic holds."""
        return _ERROR_EVENT.dump_json(self, by_alias=True)

    def brief(self) -> "ErrorEvent":
        """Return the event without most of its data and headers, for a topic that does not take all of it."""
        return replace(
            self,
            entity_id=self.entity_id and self.entity_id[:ENTITY_LIMIT],
            data=self.data and self.data[:BRIEF_LIMIT],
            headers=_trace_headers(self.headers),
            cut=True,
        )


_ERROR_EVENT: Final = TypeAdapter(ErrorEvent)


def decode_error_event(value: bytes | None) -> ErrorEvent | None:
    """Return the error event in a record's value; None for a value that is none."""
    try:
        return _ERROR_EVENT.validate_json(value or b"")
    except ValidationError:
        return None


def error_event_schema() -> dict[str, Any]:
    """Return the JSON Schema of an error event's data."""
    return _ERROR_EVENT.json_schema()


def _trace_headers(headers: Mapping[str, Any]) -> dict[str, Any]:
    traceparent, carried = trace_of(headers)
    return carried | ({TRACEPARENT: traceparent} if traceparent else {})
