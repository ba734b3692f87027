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
from typing import Any, Final, Literal, Protocol, Self, TypedDict

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.errors import InvalidInputError
from pipeline.wire import identity
from pipeline.wire.events import MAX_GENERATION, Event, Moment, carried_of
from pipeline.wire.events import TRACEPARENT as TRACEPARENT
from pipeline.wire.redaction import redact
from pipeline.wire.references import REFERENCE_TYPE, Reference, ReferencedBody

#: The Celery header that holds the TaskHeader.
HEADER: Final = "pipeline"
#: The Celery header that names a plain task's message group; without it each task is its own group.
GROUP_HEADER: Final = "message_group"
#: The Celery header of a gather that says how many parts it joins.
PARTS: Final = "parts"

#: Message attributes that a redriven task keeps: when its first message was sent (seconds since 1970), and
#: how often it was redriven.
FIRST_AT: Final = "first_at"
GENERATION: Final = "generation"

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


class StageRoute(Protocol):
    """The properties of a stage that decide how its tasks are sent."""

    @property
    def name(self) -> str:
        """The stage's name."""

    @property
    def queue(self) -> str | None:
        """Its own queue; None for the service's task queue."""

    @property
    def ordered(self) -> bool:
        """Whether tasks of one entity run in order."""

    @property
    def is_split(self) -> bool:
        """Whether an event becomes many parts."""


class PartOf(BaseModel):
    """The position of a task in a split."""

    model_config = ConfigDict(frozen=True)

    #: The task id of the split.
    split_id: str
    #: From 0.
    ordinal: int = Field(ge=0)
    #: An ordinal has nine digits where results are in order.
    total: int = Field(ge=1, le=1_000_000_000)
    #: Whether a small result is kept in the split's counter (ADR 23).
    keeps: bool = False


class TaskHeader(BaseModel):
    """The header of a stage's task: a wire format, so a change of it shows in a test."""

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
    page: int | None = Field(default=None, ge=0, le=1_000_000_000)
    #: Set for a gather whose parts are all there: how many. None where some may be missing: the seal tells.
    joins: int | None = Field(default=None, ge=0, le=1_000_000_000)
    #: Where on Kafka the event was read.
    topic: str
    partition: int
    offset: int
    #: When the job was submitted, in seconds since 1970.
    submitted_at: Moment
    #: The id of the job's plan; None in the task of a version before ADR 20.
    plan: str | None = None

    @property
    def split_id(self) -> str:
        """The task id of the split (or of the run): the task that the event itself made."""
        return identity.task_id(self.event_source, self.event_id, self.stage, None)

    @property
    def made_for(self) -> identity.Part:
        """The task's purpose among those of its event; None for the task that the event itself made."""
        if self.role == "gather":
            return "gather"
        if self.page is not None:
            return f"page-{self.page}"
        return self.part.ordinal if self.part else None

    @property
    def part_label(self) -> str:
        """The part of its split ("3/20"), or else the role."""
        return f"{self.part.ordinal}/{self.part.total}" if self.part else self.role

    @property
    def task_id(self) -> str:
        """The id of this task."""
        return identity.task_id(self.event_source, self.event_id, self.stage, self.made_for)

    def meeting(self, is_split: bool) -> Self | None:
        """Return the header with the role that the task has in this version of its stage (ADR 20).

        The run of a stage that has a split now is its split, and the other way round: their ids are the same.
        None for a part, page or gather of a stage that has no split: only the version that sent it can run
        it.
        """
        if is_split:
            return self.model_copy(update={"role": "split"}) if self.role == "run" else self
        if self.role == "run":
            return self
        if self.role == "split" and self.page is None:
            return self.model_copy(update={"role": "run"})
        return None

    @classmethod
    def read(cls, headers: Mapping[str, Any]) -> Self | None:
        """Return the header of a Celery message; None for a plain Celery task."""
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
    """A message as SQS is sent it."""

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
    #: Whether ``body`` is a reference to the data on S3 (``ReferencedBody``).
    is_referenced: bool = False

    def continuing(self, traceparent: str | None) -> Self:
        """Return the same task below another hop's ``traceparent``."""
        if traceparent is None or traceparent == self.headers.get(TRACEPARENT):
            return self
        return replace(self, headers={**self.headers, TRACEPARENT: traceparent})

    def to_sqs(self) -> SqsFields:
        """Return the SQS message: kombu's envelope, a group and a deduplication id.

        The receiving transport puts delivery tag and routing key in.
        """
        envelope = {
            "body": self.body,
            "content-encoding": "utf-8",
            "content-type": REFERENCE_TYPE if self.is_referenced else "application/json",
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
            body=allow_in_sqs(text),
            group_id=self.group_id,
            deduplication_id=self.deduplication_id,
            attributes={GENERATION: str(self.generation)} if self.generation else {},
            room=self.room,
        )


def celery_name(stage: str, role: Role) -> str:
    """Return Celery's name of a stage's task in a role."""
    return f"{stage}.{role}" if role in ("split", "gather") else stage


def read_header(headers: Mapping[str, Any]) -> TaskHeader | None:
    """Return the header of a Celery message, checked against its task; None for a plain task.

    Raises ``InvalidInputError`` for one that another task's message carries: settlement believes it. The id
    follows from the header (ADR 5), so that one task's message cannot end another.
    """
    header = TaskHeader.read(headers)
    if header is None:
        return None
    if (
        headers["task"] != celery_name(header.stage, header.role)
        or not _is_part_of_its_split(header)
        or (header.page is not None and header.role != "split")
        or headers["id"] != header.task_id
        or not 0 < len(header.job_id) <= LONGEST_JOB_ID
    ):
        raise InvalidInputError(
            f"the header of role {header.role!r} in stage {header.stage!r} of job "
            f"{header.job_id[:LONGEST_JOB_ID]!r} is not one of task {headers['task']!r}, {headers['id']}"
        )
    return header


def _is_part_of_its_split(header: TaskHeader) -> bool:
    part = header.part
    if part is None or header.role != "part":
        return part is None and header.role != "part"
    return part.split_id == header.split_id and part.ordinal < part.total


def generation_of(attributes: Mapping[str, str]) -> int:
    """Return how often a message was redriven, by its attributes; 0 for an invalid number."""
    text = attributes.get(GENERATION, "")
    generation = int(text) if text.isdecimal() and text.isascii() and len(text) <= 6 else 0
    return generation if generation <= MAX_GENERATION else 0


def first_at_of(attributes: Mapping[str, str]) -> float | None:
    """Return when the first message of a redriven task was sent; None where no attribute says so."""
    return moment_of(attributes, FIRST_AT)


def moment_of(attributes: Mapping[str, str], name: str) -> float | None:
    """Return the moment in an attribute, in seconds since 1970; None where there is none."""
    try:
        moment = float(attributes.get(name, ""))
    except ValueError:
        return None
    return moment if math.isfinite(moment) else None


def data_of(body: str | bytes) -> str:
    """Return the JSON text of the data in a task's body, unchanged; not of one whose data is on S3.

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


def for_event(
    stage: StageRoute, event: Event, job_id: str, submitted_at: float, plan: str | None = None
) -> TaskMessage:
    """Return the task that an event makes in a stage: its split where it has one, else its run.

    ``plan``: the id of the job's plan; without it the worker reads the job's record.
    """
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
        plan=plan,
    )
    data = event.reference or event.data.decode()
    message = _message(stage, header, data, trace_headers(event.traceparent, event.carried))
    return replace(message, generation=event.generation) if event.generation else message


def for_part(
    stage: StageRoute,
    header: TaskHeader,
    ordinal: int,
    total: int,
    data: str | Reference,
    trace: Mapping[str, str],
    *,
    keeps: bool = False,
    entity: str | None = None,
) -> TaskMessage:
    """Return the task of one part. ``header`` is any task's of the same split, ``data`` the part's JSON.

    ``data`` may be the reference to it.

    ``trace``: the headers of the trace that it continues (``trace_headers``). ``keeps``: as in ``PartOf``.
    ``entity``: the part's own; None for that of ``header``.
    """
    part = PartOf(split_id=header.split_id, ordinal=ordinal, total=total, keeps=keeps)
    its = {"role": "part", "part": part, "page": None, "entity_id": entity or header.entity_id}
    return _message(stage, header.model_copy(update=its), data, trace)


def for_pages(stage: StageRoute, header: TaskHeader, page: int, trace: Mapping[str, str]) -> TaskMessage:
    """Return the task that sends the parts of a sealed split from ``page`` on; see ``for_part``."""
    return _message(stage, header.model_copy(update={"page": page}), "null", trace)


def for_gather(
    stage: StageRoute, sealed: str, total: int, data: str | Reference, *, whole: bool = False
) -> TaskMessage:
    """Return the task of a gather, from the header in the seal of ``total`` parts and the event's JSON.

    ``data`` may be the reference to it. ``whole``: no part may be missing.
    """
    header = TaskHeader.model_validate_json(sealed)
    trace = json.loads(sealed).get(_TRACE, {})
    joins = total if whole else None
    gather = header.model_copy(update={"role": "gather", "part": None, "joins": joins})
    message = _message(stage, gather, data, trace)
    return replace(message, headers={**message.headers, PARTS: total})


def sealed_header(header: TaskHeader, trace: Mapping[str, str]) -> str:
    """Return the header (JSON) that a seal keeps, from which any process makes the gather's task."""
    return json.dumps({**header.model_dump(mode="json"), _TRACE: dict(trace)})


def trace_headers(traceparent: str | None, carried: Mapping[str, str]) -> dict[str, str]:
    """Return the headers of a task's message that continue a trace."""
    return {**carried, **({TRACEPARENT: traceparent} if traceparent else {})}


def trace_headers_of(headers: Mapping[str, Any], traceparent: str | None) -> dict[str, str]:
    """Return the trace headers for a task's own tasks: ``traceparent`` and those in its ``headers``."""
    return trace_headers(traceparent, carried_of(headers))


def _message(
    stage: StageRoute, header: TaskHeader, data: str | Reference, trace: Mapping[str, str]
) -> TaskMessage:
    referenced = isinstance(data, Reference)
    body = ReferencedBody(reference=data).text() if isinstance(data, Reference) else _BEFORE + data + _AFTER
    root_id, name = header.split_id, celery_name(header.stage, header.role)
    # An id costs a hash: of most tasks it is the same.
    task_id = root_id if header.made_for is None else header.task_id
    return TaskMessage(
        task_id=task_id,
        name=name,
        body=body,
        headers={**_headers(header, task_id, root_id, name, str(data)), **trace},
        group_id=identity.group_id(task_id, header.entity_id, stage.ordered),
        deduplication_id=task_id,
        queue=stage.queue,
        room=ATTRIBUTE_ROOM + (GATHER_ROOM if header.role == "split" else 0),
        is_referenced=referenced,
    )


def _headers(header: TaskHeader, task_id: str, root_id: str, name: str, data: str) -> dict[str, Any]:
    part = header.part_label if header.page is None else f"page {header.page}"
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
        # Cut after redaction as well: a token that a cut falls into has no known form.
        "argsrepr": f"({redact(data[: 2 * _SHOWN])[:_SHOWN]}{'…' * (len(data) > _SHOWN)},)",
        "kwargsrepr": repr(shown),
        "origin": "pipeline",
        "ignore_result": True,
        HEADER: header.model_dump(mode="json"),
    }


def redact_shown(headers: dict[str, Any]) -> None:
    """Redact the arguments as Celery's events show them; those in the body are the task's own."""
    for name in ("argsrepr", "kwargsrepr"):
        if isinstance(headers.get(name), str):
            headers[name] = redact(headers[name])


def allow_in_sqs(text: str) -> str:
    """Escape the two characters of JSON that SQS refuses (SendMessage, API reference)."""
    return text.replace("\ufffe", "\\ufffe").replace("\uffff", "\\uffff")
