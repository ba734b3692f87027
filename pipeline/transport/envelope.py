"""The envelope: what a message body must be before the worker may see it.

Celery's event loop ends on a message it cannot take apart, and so would the next worker's: all that it
relies on is checked here, before delivery.
"""

import json
from typing import Any

from pipeline.errors import InvalidInputError


def open_envelope(text: str) -> dict[str, Any]:
    """The Celery message (protocol 2, JSON) in the body of an SQS message.

    Returns the payload that kombu expects: body, headers, properties, content-type, content-encoding.
    Raises ``InvalidInputError`` that says what is wrong with it.
    """
    payload = _json(text, "the message")
    if not isinstance(payload, dict):
        raise InvalidInputError("not a Celery message: the message is not a JSON object")
    _expect(payload, "body", str)
    headers = _expect(payload, "headers", dict)
    _expect(payload, "properties", dict)
    for name in ("id", "task"):
        _expect(headers, name, str)
    if payload.get("content-type") != "application/json":
        raise InvalidInputError(
            f"not a Celery message: content-type is {payload.get('content-type')!r}, only JSON is accepted"
        )
    body = _json(payload["body"], "its body")
    if not (isinstance(body, list) and len(body) == 3):
        raise InvalidInputError("not a Celery message: its body is not [args, kwargs, embed]")
    args, kwargs, embed = body
    if not (isinstance(args, list) and isinstance(kwargs, dict) and isinstance(embed, dict | None)):
        raise InvalidInputError("not a Celery message: args, kwargs or embed have the wrong type")
    payload["properties"].setdefault("delivery_info", {})
    payload.setdefault("content-encoding", "utf-8")
    return payload


def _json(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"not a Celery message: {what} is not JSON: {error}") from error


def _expect(mapping: dict[str, Any], name: str, kind: type) -> Any:
    value = mapping.get(name)
    if not isinstance(value, kind):
        raise InvalidInputError(f"not a Celery message: {name!r} is missing or of the wrong type")
    return value
