"""Messages of the control plane: their bytes on Kafka, and the checks before Celery sees them.

Celery's worker restarts its mailbox on a command that it cannot take apart, and Flower's reader starts over
from the past on such an event. So both are checked here, and an invalid message is never delivered.
"""

import json
import time
from collections.abc import Callable
from typing import Any, Final

from kombu.utils.json import loads

from pipeline.errors import InvalidInputError
from pipeline.kafka import ReceivedRecord
from pipeline.transport.envelope import PARSED

#: Celery's exchanges that Kafka carries, under Celery's names.
EVENTS: Final = "celeryev"
COMMANDS: Final = "celery.pidbox"
REPLIES: Final = "reply.celery.pidbox"
EXCHANGES: Final = frozenset({EVENTS, COMMANDS, REPLIES})

#: A command is dropped so long after it expired (seconds), because its sender has gone. The clocks of two
#: machines may differ by less than this.
CLOCKS_DIFFER = 10.0

#: Commands that a worker obeys however late it reads them, and how long Celery itself remembers what they
#: revoked (celery.worker.state.REVOKE_EXPIRES, seconds).
REVOKES: Final = ("revoke", "revoke_by_stamped_headers")
REVOKES_LAST: Final = 10_800.0

#: The longest pattern of names in a command: kombu makes a regular expression of it.
LONGEST_PATTERN: Final = 200

#: A worker sends a heartbeat every 2 seconds: one so old (seconds) is no sign of life.
HEARTBEATS_LAST = 10.0

#: The most characters of a name or id in an event: a node's name is "celery@" and a host's.
LONGEST_NAME = 512

#: The key of a task event's id inside a record, whose body is JSON within JSON.
_EVENT = rb"\"uuid\""

Payload = dict[str, Any]


def is_control_queue(queue: str) -> bool:
    """Whether Celery declares this queue on one of the control plane's exchanges."""
    return queue.endswith(f".{COMMANDS}") or queue.split(".", 1)[0] == EVENTS


def count_events(value: bytes) -> int:
    """Count the task events in a record of the events topic: a busy worker sends up to 24 in one."""
    return max(1, value.count(_EVENT))


def encode(payload: Payload) -> bytes:
    """Return the value of the record for a message as kombu publishes it."""
    return json.dumps(payload, separators=(",", ":")).encode()


def decode(value: bytes | None) -> Payload:
    """Return the payload that kombu expects, with its body parsed (``PARSED``), from a record's value.

    Raises ``InvalidInputError``, which says what is wrong with it.
    """
    payload: Payload = _parse(value or b"", "the record")
    _expect(isinstance(payload, dict), "the record is not a JSON object")
    for name, kind in (("body", str), ("headers", dict), ("properties", dict)):
        _expect(isinstance(payload.get(name), kind), f"{name!r} is missing or of the wrong type")
    _expect(payload.get("content-type") == "application/json", "its content-type is not application/json")
    properties = payload["properties"]
    _expect(isinstance(properties.get("delivery_tag"), str), "it has no delivery tag")
    _expect(isinstance(properties.get("delivery_info"), dict), "it has no delivery_info")
    # The text is as it was sent, whatever it says about itself.
    properties["body_encoding"] = None
    payload[PARSED] = _parse(payload["body"], "its body")
    return payload


def check_events(payload: Payload) -> None:
    """Raise ``InvalidInputError`` unless the body is a task or worker event, or a list of them."""
    body = payload[PARSED]
    for event in body if isinstance(body, list) else [body]:
        _expect(isinstance(event, dict), "an event is not a JSON object")
        for name in ("type", "hostname"):
            _expect(_is_name(event.get(name)), f"an event without {name}, or with a long one")
        for name in ("timestamp", "utcoffset", "clock"):
            _expect(_is_number(event.get(name, 0)), f"an event whose {name} is no number")
        _expect("timestamp" in event, "an event without timestamp")
        if event["type"].startswith("task-"):
            _expect(_is_name(event.get("uuid")), "a task event without uuid, or with a long one")
            _expect(
                event.get("name") is None or _is_name(event["name"]), "a task event whose name is no name"
            )
            _expect(_is_number(event.get("runtime") or 0), "a task event whose runtime is no number")


def check_command(payload: Payload) -> None:
    """Raise ``InvalidInputError`` unless the body is a command that a worker's mailbox can take apart."""
    command = payload[PARSED]
    _expect(isinstance(command, dict), "a command that is not a JSON object")
    _expect(isinstance(command.get("method"), str), "a command without method")
    destination, reply_to = command.get("destination"), command.get("reply_to")
    _expect(isinstance(command.get("arguments"), dict | None), "a command's arguments are no object")
    _expect(
        destination is None
        or (isinstance(destination, list) and all(isinstance(name, str) for name in destination)),
        "a command's destination is no list of names",
    )
    pattern = command.get("pattern")
    _expect(
        pattern is None or (isinstance(pattern, str) and len(pattern) <= LONGEST_PATTERN),
        f"a command's pattern is no text of {LONGEST_PATTERN} characters at most",
    )
    # A regular expression (pcre) may take hours to match.
    _expect(command.get("matcher") in (None, "glob"), "a command's matcher is not glob")
    # A worker would send its answer anywhere, to an SQS queue too.
    _expect(
        reply_to is None
        or (
            isinstance(reply_to, dict)
            and reply_to.get("exchange") == REPLIES
            and isinstance(reply_to.get("routing_key"), str)
        ),
        "a command's reply_to is no address of replies",
    )
    for name in ("expires", "clock"):
        _expect(_is_number(payload["headers"].get(name) or 0), f"a command whose {name} is no number")


def check_reply(payload: Payload) -> None:
    """Raise ``InvalidInputError`` unless the body is the answer of a worker."""
    _expect(isinstance(payload[PARSED], dict), "a reply that is not a JSON object")
    _expect(_is_number(payload["headers"].get("clock") or 0), "a reply whose clock is no number")


CHECKS: Final[dict[str, Callable[[Payload], None]]] = {
    EVENTS: check_events,
    COMMANDS: check_command,
    REPLIES: check_reply,
}


def is_old_sign_of_life(message: ReceivedRecord) -> bool:
    """Whether a record of the past is a worker event too old to mean anything.

    From it Flower would show a dead worker as online. The key is the routing key, such as worker.heartbeat.
    """
    return (message.key or b"").startswith(b"worker.") and (
        message.timestamp_ms / 1000 < time.time() - HEARTBEATS_LAST
    )


def is_for_now(payload: Payload, *, past: bool) -> bool:
    """Whether a worker must act on a command; ``past``: it was sent before the worker listened.

    Of the past only revokes count: a restarted worker must not run the revoked task. They get no second
    answer.
    """
    command = payload[PARSED]
    if command["method"] in REVOKES:
        if past:
            command.pop("reply_to", None)
        return True
    expires = payload["headers"].get("expires")
    return not past and not (expires and time.time() > expires + CLOCKS_DIFFER)


def _parse(text: str | bytes, what: str) -> Any:
    try:
        # kombu's decoder: replies hold the types it encodes, such as moments.
        return loads(text)
    except Exception as error:
        raise InvalidInputError(f"{what} is not JSON as kombu writes it: {error}") from error


def _expect(condition: bool, otherwise: str) -> None:
    if not condition:
        raise InvalidInputError(otherwise)


def _is_name(value: object) -> bool:
    return isinstance(value, str) and len(value) <= LONGEST_NAME


def _is_number(value: object) -> bool:
    # Bounded: neither "not a number" nor an integer that no float holds.
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e15 < value < 1e15
