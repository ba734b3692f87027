"""Dead letters on the wire: attributes on the SQS dead-letter queue, headers on the Kafka DLQ topic.

A message on the dead-letter queue without a reason was moved there by SQS itself. On the topic a dead letter
keeps the event's own key, value and headers; Kafka deletes no single record before its retention ends, so a
letter that was redriven or purged gets a mark: a record of its own that names it.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final

from pipeline.wire.events import REDRIVE, Coordinates, Redrive
from pipeline.wire.failure import Failure
from pipeline.wire.taskmessage import FIRST_AT, GENERATION, first_at_of, generation_of, moment_of

Headers = Iterable[tuple[str, bytes]]

# ─── SQS: message attributes, ten at most ───

REASON: Final = "reason"
ERROR: Final = "error"
ATTEMPTS: Final = "attempts"
WORKER: Final = "worker"
TRACEBACK: Final = "traceback"
FAILED_AT: Final = "failed_at"
#: The queue and the message group that it came from, to which a redrive returns it.
SOURCE_QUEUE: Final = "source_queue"
GROUP: Final = "group"

#: The beginning of a dead letter's message group: each is a group of its own on the dead-letter queue.
DEAD_GROUP: Final = "dead-"

#: Characters kept in attributes; the errors topic has more.
REASON_LIMIT, ERROR_LIMIT, TRACEBACK_LIMIT = 500, 200, 4_000
#: The same where the body leaves only the room that every task leaves.
TIGHT_LIMIT: Final = 100

#: Characters that SQS refuses in text (SendMessage, API reference).
_REFUSED: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def encode_attributes(failure: Failure, *, tight: bool = False) -> dict[str, str]:
    """Return the attributes of a task's dead letter. ``tight``: cut to the room that every task leaves."""
    reason, error = (TIGHT_LIMIT, TIGHT_LIMIT) if tight else (REASON_LIMIT, ERROR_LIMIT)
    attributes = {
        REASON: _allowed(failure.reason)[:reason] or "no message",
        ERROR: _allowed(failure.error)[:error] or "Error",
        # The end of a traceback names the cause.
        TRACEBACK: "" if tight else _allowed(failure.traceback)[-TRACEBACK_LIMIT:],
        ATTEMPTS: str(failure.attempts),
        WORKER: _allowed(failure.worker or "")[:TIGHT_LIMIT],
        SOURCE_QUEUE: failure.queue or "",
        GROUP: failure.group_id or "",
        FIRST_AT: f"{failure.first_at or failure.failed_at:.3f}",
        FAILED_AT: f"{failure.failed_at:.3f}",
        GENERATION: str(failure.generation or ""),
    }
    # SQS refuses an empty value.
    return {name: value for name, value in attributes.items() if value}


def decode_attributes(attributes: Mapping[str, str], otherwise: Failure) -> Failure:
    """Return the failure that attributes describe; what they leave out is taken from ``otherwise``."""
    return replace(
        otherwise,
        reason=attributes.get(REASON) or otherwise.reason,
        error=attributes.get(ERROR) or otherwise.error,
        traceback=attributes.get(TRACEBACK, otherwise.traceback),
        attempts=_count(attributes.get(ATTEMPTS, "")),
        worker=attributes.get(WORKER),
        queue=attributes.get(SOURCE_QUEUE) or otherwise.queue,
        group_id=attributes.get(GROUP) or otherwise.group_id,
        first_at=first_at_of(attributes) or otherwise.first_at,
        failed_at=moment_of(attributes, FAILED_AT) or otherwise.failed_at,
        generation=generation_of(attributes),
    )


def redrive_attributes(failure: Failure) -> dict[str, str]:
    """Return the attributes of a redriven task's message."""
    return {
        GENERATION: str(failure.generation + 1),
        FIRST_AT: f"{failure.first_at or failure.failed_at:.3f}",
    }


def is_dead_letter(attributes: Mapping[str, str], group_id: str) -> bool:
    """Whether a message was dead-lettered with a reason: one that SQS itself moves keeps its group."""
    return REASON in attributes or group_id.startswith(DEAD_GROUP)


def _count(text: str) -> int:
    return int(text) if text.isdecimal() and text.isascii() and len(text) < 10 else 0


def _allowed(text: str) -> str:
    return _REFUSED.sub("\N{REPLACEMENT CHARACTER}", text)


# ─── Kafka: headers after the event's own ───

DLQ_HEADERS: Final = (
    "dlq_topic",
    "dlq_partition",
    "dlq_offset",
    "dlq_timestamp",
    "dlq_error",
    "dlq_reason",
    "dlq_stage",
)
#: The job of an event that a consumer made of the record, which the record itself does not tell; empty where
#: it made none. A record that is an event itself does not have it.
CONSUMED_JOB: Final = "dlq_job"
#: Headers of a mark: the name of the dead letter that was handled, and how.
HANDLED, HOW = "dlq_handled", "dlq_how"

#: The beginning of the names of headers that came with an event under a name of this project.
ASIDE: Final = "own_"
_RESERVED: Final = re.compile(r"(own_)*(dlq_.*|redrive)", re.DOTALL)


def encode_headers(
    own: Headers, failure: Failure, at: Coordinates, redrive: Redrive | None, *, consumed: bool = False
) -> tuple[tuple[str, bytes], ...]:
    """Return the headers of an event's dead letter.

    ``own``: the event's headers; ``at``: where it was read; ``redrive``: the redrive that they tell of;
    ``consumed``: it is a record of a topic of others, which a consumer read. Other
    headers under this project's names are renamed, so that no reader of the topic obeys them.
    """
    values = (
        at.topic,
        at.partition,
        at.offset,
        at.timestamp_ms,
        failure.error,
        failure.reason[:REASON_LIMIT],
        failure.stage or "",
    )
    added = tuple((name, str(value).encode()) for name, value in zip(DLQ_HEADERS, values, strict=True))
    if consumed:
        added += ((CONSUMED_JOB, (failure.job_id or "").encode()),)
    return (*(_set_aside(name, value, redrive) for name, value in own), *added)


def _set_aside(name: str, value: bytes, redrive: Redrive | None) -> tuple[str, bytes]:
    if not _RESERVED.fullmatch(name) or (name == REDRIVE and redrive is not None):
        return name, value
    return ASIDE + name, value


def decode_headers(headers: Headers, otherwise: Failure) -> Failure:
    """Return the failure that headers describe; what they leave out is taken from ``otherwise``."""
    texts, at = _last(headers), coordinates_of(headers)
    return replace(
        otherwise,
        job_id=texts[CONSUMED_JOB] or None if CONSUMED_JOB in texts else otherwise.job_id,
        error=texts.get("dlq_error") or otherwise.error,
        reason=texts.get("dlq_reason") or otherwise.reason,
        stage=texts.get("dlq_stage") or None,
        first_at=at.timestamp_ms / 1000 if at and at.timestamp_ms > 0 else None,
        topic=at.topic if at else None,
        partition=at.partition if at else None,
        offset=at.offset if at else None,
    )


def coordinates_of(headers: Headers) -> Coordinates | None:
    """Return where an event was read; None for a record that no bridge dead-lettered."""
    texts = _last(headers)
    topic, timestamp = texts.get("dlq_topic"), _number(texts.get("dlq_timestamp"))
    partition, offset = _number(texts.get("dlq_partition")), _number(texts.get("dlq_offset"))
    if not topic or partition is None or offset is None:
        return None
    return Coordinates(topic=topic, partition=partition, offset=offset, timestamp_ms=timestamp or -1)


def own_headers(headers: Headers) -> tuple[tuple[str, bytes], ...]:
    """Return the headers that an event had before it was dead-lettered."""
    return tuple(
        (name.removeprefix(ASIDE) if _RESERVED.fullmatch(name) else name, value)
        for name, value in headers
        if name not in DLQ_HEADERS and name != CONSUMED_JOB
    )


def encode_mark(name: str, how: str) -> tuple[tuple[str, bytes], ...]:
    """Return the headers of the mark that says how a dead letter was handled."""
    return (HANDLED, name.encode()), (HOW, how.encode())


def decode_mark(key: bytes | None, value: bytes | None, headers: Headers) -> str | None:
    """Return the name of the dead letter that a mark is about; None for another record.

    A mark has the letter's name as its key, no value and no other headers: the header alone may have come
    with an event.
    """
    texts = _last(headers)
    name = texts.get(HANDLED)
    is_mark = value is None and texts.keys() == {HANDLED, HOW} and name is not None and key == name.encode()
    return name if is_mark else None


def _last(headers: Headers) -> dict[str, str]:
    """Return headers by name; of two with one name the last, which the bridge added."""
    return {name: value.decode(errors="replace") for name, value in headers}


def _number(text: str | None) -> int | None:
    try:
        return int(text or "")
    except ValueError:
        return None
