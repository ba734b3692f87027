"""Messages of the control plane: as bytes on Kafka, and what one must be before Celery may see it.

Celery's worker restarts its mailbox on a command it cannot take apart, and Flower's reader starts over
from the past on such an event: so both are checked here, and what is wrong is never delivered.
"""

import json
import time
from collections.abc import Callable
from typing import Any, Final

from kombu.utils.json import loads

from pipeline.errors import InvalidInputError
from pipeline.kafka import Message
from pipeline.transport.envelope import PARSED

#: Celery's exchanges that Kafka carries, under Celery's names.
EVENTS: Final = "celeryev"
COMMANDS: Final = "celery.pidbox"
REPLIES: Final = "reply.celery.pidbox"
EXCHANGES: Final = frozenset({EVENTS, COMMANDS, REPLIES})

#: A command is dropped so long after it expired (seconds): its sender has gone. Two machines' clocks may
#: differ by less than this.
CLOCKS_DIFFER = 10.0

#: A worker tells that it lives every 2 seconds: what it said so long ago (seconds) is no sign of life.
HEARTBEATS_LAST = 10.0

#: How a task event's id looks inside a record, whose body is JSON within JSON.
_EVENT = rb"\"uuid\""

Payload = dict[str, Any]


def is_control_queue(queue: str) -> bool:
    """Whether it is one of the queues that Celery declares on the control plane's exchanges."""
    return queue.endswith(f".{COMMANDS}") or queue.split(".", 1)[0] == EVENTS


def count_events(value: bytes) -> int:
    """How many task events a record of the events topic holds: a busy worker sends up to 24 in one."""
    return max(1, value.count(_EVENT))


def encode(payload: Payload) -> bytes:
    """A message as kombu publishes it, as a record's value."""
    return json.dumps(payload, separators=(",", ":")).encode()


def decode(value: bytes | None) -> Payload:
    """A record's value as the payload that kombu expects, its body parsed (``PARSED``).

    Raises ``InvalidInputError`` that says what is wrong with it.
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
            _expect(isinstance(event.get(name), str), f"an event without {name}")
        for name in ("timestamp", "utcoffset", "clock"):
            _expect(_is_number(event.get(name, 0)), f"an event whose {name} is no number")
        _expect("timestamp" in event, "an event without timestamp")
        if event["type"].startswith("task-"):
            _expect(isinstance(event.get("uuid"), str), "a task event without uuid")


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
    _expect(isinstance(command.get("pattern"), str | None), "a command's pattern is no text")
    _expect(command.get("matcher") in (None, "glob", "pcre"), "a command's matcher is unknown")
    _expect(
        reply_to is None
        or (isinstance(reply_to, dict) and all(isinstance(reply_to.get(k), str) for k in _REPLY_TO)),
        "a command's reply_to is no address",
    )
    for name in ("expires", "clock"):
        _expect(_is_number(payload["headers"].get(name) or 0), f"a command whose {name} is no number")


_REPLY_TO = ("exchange", "routing_key")


def check_reply(payload: Payload) -> None:
    """Raise ``InvalidInputError`` unless it is one worker's answer."""
    _expect(isinstance(payload[PARSED], dict), "a reply that is not a JSON object")
    _expect(_is_number(payload["headers"].get("clock") or 0), "a reply whose clock is no number")


CHECKS: Final[dict[str, Callable[[Payload], None]]] = {
    EVENTS: check_events,
    COMMANDS: check_command,
    REPLIES: check_reply,
}


def is_old_sign_of_life(message: Message) -> bool:
    """Whether a record of the past is what a worker said of itself too long ago to mean anything.

    Flower would show a worker that died as online. Its key is the routing key, such as worker.heartbeat.
    """
    return (message.key or b"").startswith(b"worker.") and (
        message.timestamp_ms / 1000 < time.time() - HEARTBEATS_LAST
    )


def is_for_now(payload: Payload, *, past: bool) -> bool:
    """Whether a worker is to act on a command; ``past``: it was sent before the worker listened.

    Of the past only what was revoked counts: a worker that restarted must not run it. It is not answered
    again.
    """
    command = payload[PARSED]
    if command["method"] in ("revoke", "revoke_by_stamped_headers"):
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


def _is_number(value: object) -> bool:
    # Bounded: neither "not a number" nor an integer that no float holds.
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e15 < value < 1e15
