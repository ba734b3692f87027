"""A stage's task as a Celery message: protocol 2, JSON, no base64, with one header of ours.

Our facts travel as one JSON object in the Celery header ``pipeline`` (``TaskHeader``); the trace context is
the header ``traceparent``, where tracing libraries look for it, with what they put beside it.

The data stands in the body as it came, byte for byte. ``data_of`` takes it out again without parsing:
kombu's own JSON decoder turns an object with the keys ``__type__`` and ``__value__`` into something else,
or refuses it.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, Self, TypedDict

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline import identity
from pipeline.errors import InvalidInputError
from pipeline.events import TRACEPARENT as TRACEPARENT
from pipeline.events import Event, carried_of
from pipeline.stages import Stage

#: The Celery header that holds the TaskHeader.
HEADER: Final = "pipeline"
#: The Celery header of a gather that says how many parts it joins.
PARTS: Final = "parts"

#: Message attributes of a dead letter on the SQS DLQ, ten at most. A message there without a reason was moved
#: by SQS itself.
REASON: Final = "reason"
ERROR: Final = "error"
ATTEMPTS: Final = "attempts"
WORKER: Final = "worker"
TRACEBACK: Final = "traceback"
FAILED_AT: Final = "failed_at"
#: The queue and the message group it came from, to which a redrive returns it.
SOURCE_QUEUE: Final = "source_queue"
GROUP: Final = "group"
#: Message attributes that a redriven task keeps: when its first message was sent (seconds since 1970), and
#: how often it was redriven.
FIRST_AT: Final = "first_at"
GENERATION: Final = "generation"

#: What the message group of a dead letter begins with: each is a group of its own on the SQS DLQ.
DEAD_GROUP: Final = "dead-"

#: Bytes of an SQS message that a task leaves free, so that it can become a dead letter with its reason.
ATTRIBUTE_ROOM: Final = 2_048
#: Bytes more that a split leaves free: its gather has the same data, and says whose it is, of how many parts
#: and in which trace. Where it did not fit, a job's parts would run and its end never come.
GATHER_ROOM: Final = 256

Role = Literal["run", "split", "part", "gather"]

#: Beside the header in what a split keeps: the trace's headers.
_TRACE: Final = "trace"
_BEFORE: Final = "[["
_AFTER: Final = '],{},{"callbacks":null,"errbacks":null,"chain":null,"chord":null}]'
#: How much of the data Flower shows.
_SHOWN: Final = 200
#: Characters of a job's id, as events allow: it becomes a part of keys.
LONGEST_JOB_ID: Final = 128
#: More redrives than anybody makes.
_GENERATION_DIGITS: Final = 6


class PartOf(BaseModel):
    """Which part of which split a task is."""

    model_config = ConfigDict(frozen=True)

    #: The task id of the split.
    split_id: str
    #: From 0.
    ordinal: int = Field(ge=0)
    #: An ordinal has nine digits where results are in order.
    total: int = Field(ge=1, le=1_000_000_000)


class TaskHeader(BaseModel):
    """What a stage's task knows of itself: the wire format that must not change unseen."""

    model_config = ConfigDict(frozen=True)

    job_id: str
    stage: str = Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,63}$")
    #: "run": the function on an event's data. "split", "part", "gather": of a stage that divides its work.
    role: Role
    #: Source and id of the event that the task comes from: with stage and part they are its identity.
    event_source: str
    event_id: str
    entity_id: str
    #: Set for a part, and for nothing else.
    part: PartOf | None = None
    #: Set for a page task: one of the role "split" that runs no code, but sends the parts from this page on.
    page: int | None = Field(default=None, ge=0)
    #: Where on Kafka the event was read.
    topic: str
    partition: int
    offset: int
    #: When the job was submitted, in seconds since 1970.
    submitted_at: float

    @property
    def split_id(self) -> str:
        """The task id of the split (or of the run): the task that the event itself made."""
        return identity.task_id(self.event_source, self.event_id, self.stage, None)

    @property
    def made_for(self) -> identity.Part:
        """Which of the tasks that come of an event it is; None for the one that the event itself made."""
        if self.role == "gather":
            return "gather"
        if self.page is not None:
            return f"page-{self.page}"
        return self.part.ordinal if self.part else None

    @property
    def task_id(self) -> str:
        """The id of this task."""
        return identity.task_id(self.event_source, self.event_id, self.stage, self.made_for)

    @classmethod
    def read(cls, headers: Mapping[str, Any]) -> Self | None:
        """The header among a Celery message's; None for a plain Celery task."""
        if headers.get(HEADER) is None:
            return None
        try:
            return cls.model_validate(headers[HEADER])
        except ValidationError as error:
            wrong = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'it'}: {e['msg']}" for e in error.errors())
            raise InvalidInputError(
                f"the task's header {HEADER!r} is not of this version: {wrong}"
            ) from error


class SqsFields(TypedDict):
    """What SQS is sent."""

    body: str
    group_id: str
    deduplication_id: str
    attributes: Mapping[str, str]
    room: int


@dataclass(frozen=True, kw_only=True)
class TaskMessage:
    """One task, ready to be sent."""

    task_id: str
    #: Celery's name of the task.
    name: str
    #: Celery's body: JSON of [args, kwargs, embed].
    body: str
    #: Celery's headers, ours among them.
    headers: Mapping[str, Any]
    group_id: str
    deduplication_id: str
    #: The stage's queue; None for the service's task queue.
    queue: str | None
    #: How often the dead letter that it comes from was redriven.
    generation: int = 0
    #: Bytes of an SQS message that it leaves free.
    room: int = ATTRIBUTE_ROOM

    def to_sqs(self) -> SqsFields:
        """The SQS message: kombu's envelope, a group and a deduplication id.

        The receiving transport puts delivery tag and routing key in.
        """
        envelope = {
            "body": self.body,
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": self.headers,
            "properties": {
                "correlation_id": self.task_id,
                "delivery_mode": 2,
                "delivery_info": {"exchange": "", "routing_key": self.queue or ""},
                "delivery_tag": self.task_id,
                "priority": 0,
            },
        }
        text = json.dumps(envelope, ensure_ascii=False, separators=(",", ":"))
        return SqsFields(
            body=_allowed(text),
            group_id=self.group_id,
            deduplication_id=self.deduplication_id,
            attributes={GENERATION: str(self.generation)} if self.generation else {},
            room=self.room,
        )


def celery_name(stage: str, role: Role) -> str:
    """The name under which Celery knows what a stage does in a role."""
    return f"{stage}.{role}" if role in ("split", "gather") else stage


def read_header(headers: Mapping[str, Any]) -> TaskHeader | None:
    """The header among a Celery message's, checked against the task it is sent to; None for a plain task.

    Raises ``InvalidInputError`` for one that another task's message carries: settlement believes it.
    """
    header = TaskHeader.read(headers)
    if header is None:
        return None
    if (
        headers["task"] != celery_name(header.stage, header.role)
        or not _is_part_of_its_split(header)
        or (header.page is not None and header.role != "split")
        or not 0 < len(header.job_id) <= LONGEST_JOB_ID
    ):
        raise InvalidInputError(
            f"the header of role {header.role!r} in stage {header.stage!r} of job "
            f"{header.job_id[:LONGEST_JOB_ID]!r} is not one of task {headers['task']!r}"
        )
    return header


def _is_part_of_its_split(header: TaskHeader) -> bool:
    part = header.part
    if part is None or header.role != "part":
        return part is None and header.role != "part"
    return part.split_id == header.split_id and part.ordinal < part.total


def generation_of(attributes: Mapping[str, str]) -> int:
    """How often a message was redriven, by its attributes; 0 for what is no such number."""
    text = attributes.get(GENERATION, "")
    return int(text) if text.isdecimal() and text.isascii() and len(text) <= _GENERATION_DIGITS else 0


def first_at_of(attributes: Mapping[str, str]) -> float | None:
    """When the first message of a redriven task was sent; None where that is not said."""
    return moment_of(attributes, FIRST_AT)


def moment_of(attributes: Mapping[str, str], name: str) -> float | None:
    """A moment in an attribute, in seconds since 1970; None where there is none."""
    try:
        moment = float(attributes.get(name, ""))
    except ValueError:
        return None
    return moment if math.isfinite(moment) else None


def data_of(body: str | bytes) -> str:
    """The JSON text of the data in a task's body, as it came.

    A body that a Celery client wrote (``send_task``) is parsed; its first argument is the data.
    """
    text = body.decode() if isinstance(body, bytes) else body
    if text.startswith(_BEFORE) and text.endswith(_AFTER):
        return text[len(_BEFORE) : -len(_AFTER)]
    try:
        return json.dumps(json.loads(text)[0][0])
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise InvalidInputError(
            f"the task's body is not [[data], {{}}, {{…}}]; it begins {text[:80]!r}"
        ) from error


def for_event(stage: Stage[Any, Any], event: Event, job_id: str, submitted_at: float) -> TaskMessage:
    """The task that an event makes in a stage: its split where it has one, else its run."""
    at = event.coordinates
    header = TaskHeader(
        job_id=job_id,
        stage=stage.name,
        role="split" if stage.is_split else "run",
        event_source=event.source,
        event_id=event.id,
        entity_id=event.entity_id,
        topic=at.topic if at else "",
        partition=at.partition if at else -1,
        offset=at.offset if at else -1,
        submitted_at=submitted_at,
    )
    message = _message(stage, header, event.data.decode(), trace_headers(event.traceparent, event.carried))
    return replace(message, generation=event.generation) if event.generation else message


def for_part(
    stage: Stage[Any, Any], header: TaskHeader, ordinal: int, total: int, data: str, trace: Mapping[str, str]
) -> TaskMessage:
    """The task of one part. ``header`` is any task's of the same split, ``data`` the part's JSON.

    ``trace``: the headers of the trace that it continues (``trace_headers``).
    """
    part = PartOf(split_id=header.split_id, ordinal=ordinal, total=total)
    return _message(
        stage, header.model_copy(update={"role": "part", "part": part, "page": None}), data, trace
    )


def for_pages(stage: Stage[Any, Any], header: TaskHeader, page: int, trace: Mapping[str, str]) -> TaskMessage:
    """The task that sends the parts of a sealed split from ``page`` on. The rest is as for ``for_part``."""
    return _message(stage, header.model_copy(update={"page": page}), "null", trace)


def for_gather(stage: Stage[Any, Any], sealed: str, total: int, data: str) -> TaskMessage:
    """The task of a gather, from what its split of ``total`` parts kept, and the event's JSON."""
    header = TaskHeader.model_validate_json(sealed)
    trace = json.loads(sealed).get(_TRACE, {})
    message = _message(stage, header.model_copy(update={"role": "gather", "part": None}), data, trace)
    return replace(message, headers={**message.headers, PARTS: total})


def sealed_header(header: TaskHeader, trace: Mapping[str, str]) -> str:
    """What a split keeps (JSON) of its task, so that anybody can make its gather's, in the same trace."""
    return json.dumps({**header.model_dump(mode="json"), _TRACE: dict(trace)})


def trace_headers(traceparent: str | None, carried: Mapping[str, str]) -> dict[str, str]:
    """The headers of a task's message that continue a trace."""
    return {**carried, **({TRACEPARENT: traceparent} if traceparent else {})}


def trace_headers_of(headers: Mapping[str, Any], traceparent: str | None) -> dict[str, str]:
    """The headers for what a task makes: ``traceparent``, and what came in the task's own ``headers``."""
    return trace_headers(traceparent, carried_of(headers))


def _message(stage: Stage[Any, Any], header: TaskHeader, data: str, trace: Mapping[str, str]) -> TaskMessage:
    root_id, name = header.split_id, celery_name(header.stage, header.role)
    # An id costs a hash: of most tasks it is the same.
    task_id = root_id if header.made_for is None else header.task_id
    return TaskMessage(
        task_id=task_id,
        name=name,
        body=_BEFORE + data + _AFTER,
        headers={**_headers(header, task_id, root_id, name, data), **trace},
        group_id=identity.group_id(task_id, header.entity_id, stage.ordered),
        deduplication_id=task_id,
        queue=stage.queue,
        room=ATTRIBUTE_ROOM + (GATHER_ROOM if header.role == "split" else 0),
    )


def _headers(header: TaskHeader, task_id: str, root_id: str, name: str, data: str) -> dict[str, Any]:
    part = f"{header.part.ordinal}/{header.part.total}" if header.part else header.role
    if header.page is not None:
        part = f"page {header.page}"
    shown = {"job_id": header.job_id, "stage": header.stage, "part": part}
    return {
        "lang": "py",
        "task": name,
        "id": task_id,
        "root_id": root_id,
        "parent_id": None if task_id == root_id else root_id,
        "group": None,
        "shadow": None,
        "eta": None,
        "expires": None,
        "retries": 0,
        # [None, None]: the worker's own limits of the stage count, also for a task that waited long.
        "timelimit": [None, None],
        "argsrepr": f"({data[:_SHOWN]}{'…' * (len(data) > _SHOWN)},)",
        "kwargsrepr": repr(shown),
        "origin": "pipeline",
        "ignore_result": True,
        HEADER: header.model_dump(mode="json"),
    }


def _allowed(text: str) -> str:
    """SQS refuses two characters that JSON may hold (SendMessage, API reference); escaped, it takes them."""
    return text.replace("\ufffe", "\\ufffe").replace("\uffff", "\\uffff")
