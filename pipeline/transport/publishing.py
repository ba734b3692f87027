"""The way of a task from Celery's publish to an SQS message; what SQS cannot carry is refused here."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import cache
from time import time
from typing import Any, Final
from uuid import UUID

import structlog

from pipeline.errors import InvalidInputError, MessageRefusedError
from pipeline.sqs import QUEUE_RETENTION, OutgoingMessage
from pipeline.transport.envelope import LONGEST_ID, open_envelope
from pipeline.transport.stockmessage import DEDUPLICATION_PROPERTY, GROUP_PROPERTY
from pipeline.wire import identity
from pipeline.wire.taskmessage import ATTRIBUTE_ROOM, GROUP_HEADER, allow_in_sqs, redact_shown

log = structlog.get_logger(__name__)

#: A task due later than this (seconds) goes back to the queue until it is due.
PARK_BEYOND = 1.0
DAY = 86_400
#: A task due later than this (seconds) is refused: a day must be left for its runs.
LATEST = QUEUE_RETENTION - DAY

#: The name of a queue and a message for it.
Queued = tuple[str, OutgoingMessage]

#: Headers and properties whose value may be an int or a UUID: it is sent as text.
_NAMES: Final = (
    *("id", "root_id", "parent_id", "group", GROUP_HEADER, "correlation_id", "reply_to"),
    *(GROUP_PROPERTY, DEDUPLICATION_PROPERTY),
)

_outbox: ContextVar[tuple[str, list[Queued]] | None] = ContextVar("outbox", default=None)


@contextmanager
def gathering(origin: str = "") -> Iterator[list[Queued]]:
    """Gather what this thread publishes, in a list, instead of sending it.

    ``origin``: what tells it from what else is published under the same task ids.
    """
    gathered: list[Queued] = []
    token = _outbox.set((origin, gathered))
    try:
        yield gathered
    finally:
        _outbox.reset(token)


def is_gathering() -> bool:
    """Whether what this thread publishes is gathered."""
    return _outbox.get() is not None


def gathered_from() -> str:
    """Return the origin of what is gathered; "" for none."""
    outbox = _outbox.get()
    return outbox[0] if outbox is not None else ""


def gather(queue: str, message: OutgoingMessage) -> bool:
    """Add a message to the list of ``gathering``; False if there is none, so that it must be sent."""
    outbox = _outbox.get()
    if outbox is not None:
        outbox[1].append((queue, message))
    return outbox is not None


def to_sqs(queue: str, message: dict[str, Any]) -> OutgoingMessage:
    """Return the SQS message for a message as kombu publishes it.

    Raises ``MessageRefusedError`` for one that no worker could run: it says why, and what to change.
    """
    headers, properties = message["headers"], message["properties"]
    for each in (headers, properties):
        each.update({name: str(each[name]) for name in _NAMES if isinstance(each.get(name), int | UUID)})
    try:
        _check_options(headers, properties, message)
        redact_shown(headers)
        body = _text({**message, "body": _unescaped(message["body"])})
        group = open_envelope(body).headers.get(GROUP_HEADER)
    except InvalidInputError as error:
        raise MessageRefusedError(f"Could not send to {queue}: {error}") from error
    if properties.get("priority"):
        _warn_of_priority()
    task_id = headers["id"]
    return OutgoingMessage(
        body=body,
        group_id=identity.group_id(task_id, group or task_id, ordered=True),
        deduplication_id=properties.get(DEDUPLICATION_PROPERTY)
        or identity.publish_deduplication_id(
            task_id,
            headers.get("retries") or 0,
            headers.get("replaced_task_nesting") or 0,
            headers.get("eta"),
            headers.get("redrives") or 0,
        ),
        room=ATTRIBUTE_ROOM,
    )


def _check_options(headers: dict[str, Any], properties: dict[str, Any], message: dict[str, Any]) -> None:
    """Raise ``InvalidInputError`` for options that SQS FIFO queues, or the workers, do not have."""
    if (delay := seconds_until(headers.get("eta"))) > LATEST:
        raise InvalidInputError(
            f"the task is due in {delay / DAY:.1f} days ({headers['eta']}), and a queue keeps a message for "
            f"{QUEUE_RETENTION // DAY}: publish it at most {LATEST // DAY} days before"
        )
    given = properties.get(DEDUPLICATION_PROPERTY)
    if given is not None and not identity.is_sqs_id(given):
        raise InvalidInputError(
            f"its {DEDUPLICATION_PROPERTY} is {str(given)[:40]!r}, and SQS takes 1 to 128 letters, digits "
            "and punctuation: leave it out, or hash it"
        )
    if "task" not in headers:
        raise InvalidInputError(
            "it is in Celery's protocol 1, which has no headers for its group and trace: publish it with an "
            "app that has pipeline.install(app), or set task_protocol to 2"
        )
    if compression := headers.get("compression"):
        raise InvalidInputError(
            f"it is compressed ({compression}), and tasks travel as JSON text: publish without compression "
            "(option compression, setting task_compression)"
        )
    if message.get("content-type") != "application/json":
        raise InvalidInputError(
            f"its arguments are serialized as {message.get('content-type')}, and tasks travel as JSON: "
            'publish with serializer="json" (setting task_serializer)'
        )
    for name in _NAMES:
        value = headers.get(name)
        if name != GROUP_HEADER and isinstance(value, str) and len(value) > LONGEST_ID:
            raise InvalidInputError(
                f"its {name} has {len(value)} characters, and an id has at most {LONGEST_ID}: {value[:40]}…"
            )


def _unescaped(body: str) -> str:
    r"""Return a JSON text without escapes such as \u6f22, which the message's own JSON would escape again."""
    if "\\u" not in body:
        return body
    try:
        return json.dumps(json.loads(body), ensure_ascii=False, separators=(",", ":"))
    except RecursionError:
        return body


def _text(message: dict[str, Any]) -> str:
    try:
        text = json.dumps(message, ensure_ascii=False, separators=(",", ":"))
        text.encode()
    except TypeError as error:
        wrong = ", ".join(name for name, value in message["headers"].items() if not _is_json(value))
        raise InvalidInputError(
            f"{f'its header {wrong}' if wrong else 'one of its options'} is not JSON ({error}): send text, "
            "for example str(...)"
        ) from error
    except UnicodeEncodeError as error:
        raise InvalidInputError(
            f"its arguments or headers hold half a surrogate pair, which is no Unicode text ({error}): "
            'take it out, for example with text.encode("utf-8", "replace").decode()'
        ) from error
    return allow_in_sqs(text)


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value)
    except TypeError:
        return False
    return True


@cache
def _warn_of_priority() -> None:
    """Warn once in a process."""
    log.warning(
        "publish.priority_ignored", reason="an SQS FIFO queue gives messages in order, whatever they are"
    )


def is_for_later(eta: Any) -> bool:
    """Whether a task with that ``eta`` header waits on SQS until then."""
    return seconds_until(eta) > PARK_BEYOND


def seconds_until(eta: Any) -> float:
    """Return the seconds until an ``eta`` header (ISO 8601; UTC if it names no zone); 0 for none."""
    if not eta:
        return 0
    try:
        due = datetime.fromisoformat(eta)
    except (TypeError, ValueError):
        return 0  # Celery names the bad value when it is delivered
    return (due if due.tzinfo else due.replace(tzinfo=UTC)).timestamp() - time()
