"""Events on the wire: CloudEvents 1.0 in Kafka's binary mode; structured mode and plain JSON are read too.

Knows no Kafka client. The attributes are Kafka headers named ``ce_*``, the data is the value as it is,
the entity id is the key (github.com/cloudevents/spec, bindings/kafka-protocol-binding.md).

The official SDK is the tests' second opinion and not used here: it makes up an id, a time and a version
where an event has none, so that a replay would be another event.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json

from pipeline.errors import InvalidEventError
from pipeline.wire import identity, structured
from pipeline.wire.headertext import attributes_in, text_of, unquoted
from pipeline.wire.references import Reference

JSON_TYPE: Final = "application/json"
PREFIX: Final = "ce_"
CONTENT_TYPE: Final = "content-type"
#: The header of an event that was redriven. Not a ``ce_*`` attribute: a plain event has it too.
REDRIVE: Final = "redrive"
TRACEPARENT: Final = "traceparent"
TRACESTATE: Final = "tracestate"
#: Headers that tracing libraries put beside a traceparent; they are carried on unchanged.
CARRIED: Final = (
    TRACESTATE,
    "x-datadog-trace-id",
    "x-datadog-parent-id",
    "x-datadog-sampling-priority",
    "x-datadog-origin",
    "x-datadog-tags",
)
#: Characters of each: what the W3C recommends to carry of a tracestate, and the most that ddtrace writes.
CARRIED_LIMIT: Final = 512

#: Stands for all headers of a record where the client cannot read them; why is its value.
UNREADABLE: Final = "unreadable-headers"

#: The most characters of an entity (a Kafka key may be anything): it is in all that is recorded of its jobs.
ENTITY_LIMIT: Final = 1_024

#: Containers within containers that data may have: the parser's own bound, at which it stops without
#: touching the stack. Input for stages is validated by the same parser.
MAX_DEPTH: Final = 201

#: Seconds from 1970 to where calendars of Python end.
YEAR_9999: Final = 253_402_300_800

#: The most redrives of one event or task that are counted: more than anybody makes.
MAX_GENERATION: Final = 1_000

#: W3C Trace Context, version 00. Anything else is dropped, as the recommendation asks.
_TRACEPARENT: Final = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")

#: Anything else is dropped: the job's record has its plan.
_PLAN_ID: Final = re.compile(r"[0-9a-f]{16}")

_TRACING: Final = frozenset((TRACEPARENT, *CARRIED))

#: The headers of a Kafka record.
Headers = Iterable[tuple[str, bytes | None]]


@dataclass(frozen=True, kw_only=True)
class Coordinates:
    """Where on Kafka an event was read."""

    #: The Kafka topic, with its prefix.
    topic: str
    partition: int
    offset: int
    #: Milliseconds since 1970, as Kafka stamped it.
    timestamp_ms: int


@dataclass(frozen=True, kw_only=True)
class Event:
    """One event: what happened, to which entity, for which job."""

    #: Unique within ``source``; the same when the same event is sent again.
    id: str
    #: Who says so: a URI reference.
    source: str
    #: What happened; the events of this project name the logical topic.
    type: str
    #: When it happened.
    time: datetime
    #: What it happened to: the Kafka key, or the event's own id where there is no key.
    entity_id: str
    #: The data as JSON text in UTF-8, unchanged; empty where ``reference`` names it.
    data: bytes
    #: Where the data is, if it is on S3.
    reference: Reference | None = None
    #: The bucket that the reference was read with; None for an event that is about to be produced.
    bucket: str | None = None
    #: The job it names; ``job_in`` says which it belongs to.
    job_id: str | None = None
    #: The stage that emitted it; None for the first event of a job.
    stage: str | None = None
    #: When its job was submitted, in seconds since 1970.
    submitted_at: float | None = None
    #: The id of its job's plan; believed where the plan is known under it.
    plan_id: str | None = None
    #: The W3C trace it belongs to.
    traceparent: str | None = None
    #: Its headers for tracing libraries: some of ``CARRIED``.
    carried: Mapping[str, str] = field(default_factory=dict, hash=False)
    #: Its CloudEvents attributes as they were read, extensions too; empty for a plain event. Not written.
    attributes: Mapping[str, str] = field(default_factory=dict, compare=False)
    #: Where it was read; None for an event that is about to be produced.
    coordinates: Coordinates | None = None
    #: How often it was redriven from the DLQ topic.
    generation: int = 0

    def job_in(self, service: str, topic: str) -> tuple[str, bool]:
        """Return its job's id in a service, and whether it begins that job there.

        ``topic``: the logical topic that it is on.
        """
        emitted = self.source == source_of(service, self.stage or "") and self.type == topic
        return _job_in(self.source, self.id, self.job_id if self.stage and emitted else None)

    def continuing(self, traceparent: str | None) -> Self:
        """Return the event with another hop's ``traceparent``."""
        return self if traceparent == self.traceparent else replace(self, traceparent=traceparent)


class Redrive(BaseModel):
    """The header of a redriven event: how often it was redriven, and where it was read the first time."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    generation: int = Field(ge=1, le=MAX_GENERATION)
    topic: str = Field(min_length=1, max_length=249)
    partition: int = Field(ge=0, lt=2**31)
    offset: int = Field(ge=0, lt=2**63)
    #: As ``Coordinates`` have it, of a time that a clock can show.
    timestamp_ms: int = Field(gt=-YEAR_9999 * 1000, lt=YEAR_9999 * 1000)
    #: The ``record_digest`` of the record that it was written for.
    digest: str

    def header(self) -> tuple[str, bytes]:
        """Return the header to be produced."""
        return REDRIVE, self.model_dump_json().encode()


def _recordable(seconds: float) -> float:
    if 0 < seconds < 0.001:
        raise ValueError("a moment has milliseconds: DynamoDB does not hold the smallest numbers")
    return seconds


#: Seconds since 1970, as every service that records them can hold.
Moment = Annotated[float, Field(ge=0, lt=YEAR_9999, allow_inf_nan=False), AfterValidator(_recordable)]


class EventAttributes(BaseModel):
    """The ``ce_*`` headers of an event, without the prefix: the wire format that must not change unseen."""

    model_config = ConfigDict(frozen=True, extra="ignore", title="Attributes of an event (ce_* headers)")

    specversion: Literal["1.0"]
    id: str = Field(min_length=1, max_length=1024)
    source: str = Field(min_length=1, max_length=1024)
    type: str = Field(min_length=1, max_length=255)
    time: AwareDatetime | None = None
    #: Extension: the job, of the service whose stage emitted it. It becomes a key, and a part of URLs.
    jobid: str | None = Field(default=None, pattern=r"^[A-Za-z0-9._:-]{1,128}$")
    #: Extension: the stage that emitted the event.
    stage: str | None = Field(default=None, pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,63}$")
    #: Extension: when the job was submitted, in seconds since 1970.
    submittedat: Moment | None = None
    #: Extension: the id of the job's plan (ADR 20).
    planid: Annotated[
        str | None, AfterValidator(lambda value: value if value and _PLAN_ID.fullmatch(value) else None)
    ] = None
    #: Extension: where the data is, if the value is empty (CloudEvents' own "dataref").
    dataref: str | None = None
    #: Extension: W3C trace context.
    traceparent: Annotated[
        str | None, AfterValidator(lambda value: value if value and _TRACEPARENT.fullmatch(value) else None)
    ] = None


def encode(event: Event, content_type: str = JSON_TYPE) -> tuple[bytes, bytes, tuple[tuple[str, bytes], ...]]:
    """Return the key, value and headers of the Kafka record that carries ``event``.

    The value is JSON; ``content_type`` is another one where the caller writes it in another format.

    The value of an event with a reference is empty, and not null: a record without a value is a deletion.
    Versions before references reject it as no JSON.
    """
    attributes = {
        "specversion": "1.0",
        "id": event.id,
        "source": event.source,
        "type": event.type,
        "time": event.time.astimezone(UTC).isoformat().replace("+00:00", "Z"),
        "jobid": event.job_id,
        "stage": event.stage,
        "submittedat": None if event.submitted_at is None else repr(event.submitted_at),
        "planid": event.plan_id,
        "dataref": event.reference.uri(event.bucket or "") if event.reference else None,
        "traceparent": event.traceparent,
    }
    headers = [(PREFIX + name, value.encode()) for name, value in attributes.items() if value is not None]
    headers += [
        (CONTENT_TYPE, content_type.encode()),
        # What consumers that know nothing of CloudEvents look at.
        ("timestamp", repr(event.time.timestamp()).encode()),
        ("source", event.source.encode()),
    ]
    if event.traceparent is not None:
        headers.append((TRACEPARENT, event.traceparent.encode()))
    headers += [(name, value.encode()) for name, value in event.carried.items()]
    return event.entity_id.encode(), event.data, tuple(headers)


def decode(
    *, key: bytes | None, value: bytes | None, headers: Headers | None, coordinates: Coordinates
) -> Event:
    """Read a Kafka record; raise ``InvalidEventError`` where it cannot become a task."""
    headers = list(headers or ())
    media, attributes = _media_and_attributes(headers)
    entity_id = _checked_entity(key_text(key or b""))
    found = _reference_in(value, attributes)
    data = b"" if found else checked_json(value)
    redrive = redrive_of(headers, coordinates.topic, key, value)
    if media == structured.MEDIA_TYPE:
        attributes, data = structured.open_structured(data)
        checked_json(data)
    traceparent, carried = _trace(headers)
    if not attributes and media != structured.MEDIA_TYPE:
        plain = _plain(entity_id, data, coordinates, redrive)
        return replace(plain, traceparent=traceparent, carried=carried)
    known = _checked_attributes(attributes, "attribute" if media == structured.MEDIA_TYPE else "header")
    return Event(
        id=known.id,
        source=known.source,
        type=known.type,
        time=known.time or _time(coordinates),
        entity_id=entity_id or known.id,
        data=data,
        bucket=found[0] if found else None,
        reference=found[1] if found else None,
        job_id=known.jobid,
        stage=known.stage,
        submitted_at=known.submittedat,
        plan_id=known.planid,
        traceparent=known.traceparent or traceparent,
        carried=carried,
        attributes=attributes,
        coordinates=coordinates,
        generation=redrive.generation if redrive else 0,
    )


def source_of(service: str, stage: str) -> str:
    """Return the ``source`` of the events that a stage of a service emits."""
    return f"/{service}/{stage}"


def job_named(service: str, headers: Headers, topic: str) -> tuple[str | None, bool]:
    """Return ``Event.job_in`` of a record that may be no event; None where its headers are not enough."""
    try:
        named = {"specversion": "1.0", "type": "unknown", **_attributes(headers)}
        known = EventAttributes.model_validate(named)
    except (ValueError, InvalidEventError):
        return None, False
    emitted = known.source == source_of(service, known.stage or "") and known.type == topic
    return _job_in(known.source, known.id, known.jobid if known.stage and emitted else None)


def _job_in(source: str, event_id: str, job_id: str | None) -> tuple[str, bool]:
    """Return the job of an event, and whether the event begins it.

    ``job_id``: the job that the event names, if a stage of the service emitted the event to the topic that it
    is on. Any other event begins a job of its own: the job that it names may be another service's, and a tool
    that keeps headers names one job in many events.
    """
    return (job_id, False) if job_id is not None else (identity.job_id(source, event_id), True)


def carried_of(headers: Mapping[str, Any]) -> dict[str, str]:
    """Return the headers of a message that are carried on for tracing libraries."""
    found = {name: headers.get(name) for name in CARRIED}
    return {
        name: value
        for name, value in found.items()
        if isinstance(value, str) and len(value) <= CARRIED_LIMIT and value.isascii() and value.isprintable()
    }


def trace_of(headers: Mapping[str, Any]) -> tuple[str | None, dict[str, str]]:
    """Return the ``traceparent`` in a message's headers, in any case, and the headers carried beside it."""
    found = {name.lower(): value for name, value in headers.items() if name.lower() in _TRACING}
    traceparent = found.get(TRACEPARENT)
    known = isinstance(traceparent, str) and _TRACEPARENT.fullmatch(traceparent)
    return (traceparent if known else None), carried_of(found)


def redrive_of(headers: Headers, topic: str, key: bytes | None, value: bytes | None) -> Redrive | None:
    """Return the redrive of a record on a Kafka topic; None where there is none that this project wrote.

    A header that was written for another record is not obeyed: a tool that keeps headers copied it.
    """
    found = [text for name, text in headers if name == REDRIVE]
    try:
        redrive = Redrive.model_validate_json(found[-1] or b"") if found else None
    except ValidationError:
        return None
    if redrive is None or redrive.digest != record_digest(topic, key, value):
        return None
    return redrive


def record_digest(topic: str, key: bytes | None, value: bytes | None) -> str:
    """Return a digest of a record, by which a header is known to be its own."""
    digest = hashlib.sha256()
    for piece in (topic.encode(), key or b"", value or b""):
        digest.update(len(piece).to_bytes(8, "big") + piece)
    return digest.hexdigest()[:32]


def checked_json(value: bytes | None) -> bytes:
    """Return ``value`` when it is JSON that can travel; raise ``InvalidEventError`` otherwise."""
    if value is None:
        raise InvalidEventError("the record has no value, so a task would have no data")
    try:
        from_json(value, allow_inf_nan=False)
    except ValueError as error:
        raise InvalidEventError(
            f"the value is not JSON in UTF-8: {error}; it begins {value[:60]!r}"
        ) from error
    return value


def _reference_in(value: bytes | None, attributes: Mapping[str, str]) -> tuple[str, Reference] | None:
    """Return the bucket and the reference of an event whose value is empty; None for one with a value."""
    dataref = attributes.get("dataref")
    if value != b"" or dataref is None:
        return None
    found = Reference.of_uri(dataref)
    if found is None:
        raise InvalidEventError(
            f"the value is empty, and {PREFIX}dataref is no reference that a stage of this project wrote: "
            f"{dataref[:200]!r}. Send the data as the value."
        )
    return found


def _plain(entity_id: str, data: bytes, at: Coordinates, redrive: Redrive | None) -> Event:
    # A redriven event is the one it was, so its place is where it was read the first time.
    first = redrive or at
    event_id = identity.plain_event_id(first.topic, first.partition, first.offset, first.timestamp_ms)
    return Event(
        id=event_id,
        source=f"kafka:{first.topic}",
        type=first.topic,
        time=_time(at),
        entity_id=entity_id or event_id,
        data=data,
        coordinates=at,
        generation=redrive.generation if redrive else 0,
    )


def _media_and_attributes(headers: Headers) -> tuple[str, dict[str, str]]:
    """Return the media type of a record and its ``_attributes``.

    Raises ``InvalidEventError`` where no event is read.
    """
    media = JSON_TYPE
    for name, value in headers:
        if name == UNREADABLE:
            raise InvalidEventError(f"its headers cannot be read: {text_of(value)}")
        if name.lower() == CONTENT_TYPE:
            media = unquoted(text_of(value) or JSON_TYPE).partition(";")[0].strip().lower()
    if media.startswith("application/cloudevents"):
        structured.refuse_media(media)
    found = _attributes(headers)
    if found and media != JSON_TYPE and not media.endswith("+json"):
        raise InvalidEventError(f"content-type is {media[:100]!r}: a stage takes JSON. Send {JSON_TYPE}.")
    return media, found


def _attributes(headers: Headers) -> dict[str, str]:
    return attributes_in(headers, PREFIX, EventAttributes.model_fields.keys())


def _trace(headers: Headers) -> tuple[str | None, dict[str, str]]:
    """Return the trace that a tracing library wrote into a record's headers, and its other headers."""
    named = {name: value for name, value in headers if value and name.lower() in _TRACING}
    return trace_of({name: unquoted(value.decode("ascii", "replace")) for name, value in named.items()})


def _checked_attributes(attributes: dict[str, str], kind: Literal["header", "attribute"]) -> EventAttributes:
    try:
        return EventAttributes.model_validate(attributes)
    except ValidationError as error:
        prefix = PREFIX if kind == "header" else ""
        wrong = "; ".join(
            f"{prefix}{e['loc'][0]}: {_reason(e, kind)}" for e in error.errors(include_url=False)
        )
        raise InvalidEventError(f"not a CloudEvents 1.0 event: {wrong}") from error


def _reason(error: Any, kind: str) -> str:
    if error["type"] == "missing":
        return f"the {kind} is missing"
    return f"{error['msg']}, it is {str(error['input'])[:100]!r}"


def entity_fault(entity: object) -> str | None:
    """Return why a value that code or a caller gives cannot be an entity; None where it can."""
    if not isinstance(entity, str):
        return f"the entity is {entity!r:.80}, and no text"
    if not entity:
        return "the entity is empty: give a text, or none where there is none of its own"
    if len(entity) > ENTITY_LIMIT:
        return f"the entity has {len(entity):,} characters and may have {ENTITY_LIMIT:,}"
    if not entity.isprintable():
        return f"the entity {entity!r:.80} cannot be a key: use printable text in UTF-8"
    return None


def key_text(key: bytes) -> str:
    """Return a key as text; a key in another encoding (a serialized number, say) as hexadecimal."""
    try:
        return key.decode()
    except UnicodeDecodeError:
        return key.hex()


def _checked_entity(text: str) -> str:
    if len(text) > ENTITY_LIMIT:
        raise InvalidEventError(
            f"the key, which is the entity, has {len(text)} characters and may have {ENTITY_LIMIT}; "
            f"it begins {text[:60]!r}"
        )
    return text


def _time(at: Coordinates) -> datetime:
    try:
        return datetime.fromtimestamp(at.timestamp_ms / 1000, UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise InvalidEventError(f"Kafka's timestamp is {at.timestamp_ms} ms, which is no time") from error
