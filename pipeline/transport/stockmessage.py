"""Messages of other Celery clients: of kombu's own SQS transport, and in Celery's protocol 1.

A site that moves to this project publishes with its old clients for a while. Their messages differ in four
things: the whole message is Base64, the body in it is Base64 once more, the message group is a property, and
in protocol 1 the body is an object with what protocol 2 has in headers. Here such a message becomes one as
this project's clients write it, which is then checked like any other.
"""

import base64
import json
from datetime import datetime
from typing import Any, Final

from celery.utils.saferepr import saferepr

from pipeline.wire.taskmessage import GROUP_HEADER, redact_shown

#: The options of kombu's SQS transport, which it sends as properties.
GROUP_PROPERTY: Final = "MessageGroupId"
DEDUPLICATION_PROPERTY: Final = "MessageDeduplicationId"

#: How Base64 of a JSON object begins: ``{"``.
_BASE64_OBJECT: Final = "eyJ"
#: What has the same name in a body of protocol 1 and in the headers of protocol 2.
_SAME: Final = ("task", "id", "eta", "expires", "timelimit", "group_index")
#: The characters of the arguments that Flower shows, as Celery cuts them.
_SHOWN: Final = 1_024


def plain_text(text: str) -> str:
    """Return the JSON text of an SQS message, which kombu's SQS transport sends as Base64."""
    return _decoded(text, "the message") if text.startswith(_BASE64_OBJECT) else text


def is_of_others(payload: Any) -> bool:
    """Whether a message is written as only other clients write it."""
    if not isinstance(payload, dict):
        return False
    headers, properties = payload.get("headers"), payload.get("properties")
    if not (isinstance(headers, dict) and isinstance(properties, dict)):
        return False
    encoded = properties.get("body_encoding") == "base64"
    return encoded or GROUP_PROPERTY in properties or "task" not in headers


def as_own(payload: dict[str, Any]) -> dict[str, Any]:
    """Return a message of another client (``is_of_others``) as this project's clients write it.

    It is unchecked: any key may have a value of any type. Raises ``ValueError``, which says why it cannot.
    """
    headers, properties = dict(payload["headers"]), dict(payload["properties"])
    if compression := headers.get("compression"):
        raise ValueError(f"its body is compressed ({compression}): publish it without compression")
    body = payload.get("body")
    if properties.pop("body_encoding", None) == "base64" and isinstance(body, str):
        body = _decoded(body, "its body")
    if "task" not in headers and isinstance(fields := _json(body), dict):
        body = _to_protocol_2(headers, fields)
    if GROUP_PROPERTY in properties:
        headers[GROUP_HEADER] = properties.pop(GROUP_PROPERTY)
    properties.pop(DEDUPLICATION_PROPERTY, None)
    redact_shown(headers)
    return {**payload, "body": body, "headers": headers, "properties": properties}


def _to_protocol_2(headers: dict[str, Any], fields: dict[str, Any]) -> str:
    """Put the fields of a body of protocol 1 into ``headers``; return the body of protocol 2."""
    if fields.get("utc") is False and (naive := [x for x in ("eta", "expires") if _is_naive(fields.get(x))]):
        raise ValueError(
            f"its {naive[0]} is local time of a zone that it does not name: publish with enable_utc=True"
        )
    args, kwargs = fields.get("args") or [], fields.get("kwargs") or {}
    headers.update(
        {name: fields[name] for name in _SAME if name in fields},
        root_id=fields.get("id"),
        parent_id=None,
        group=fields.get("taskset") or fields.get("group"),
        retries=fields.get("retries") or 0,
        argsrepr=saferepr(args, _SHOWN),
        kwargsrepr=saferepr(kwargs, _SHOWN),
    )
    embed = {name: fields.get(name) for name in ("callbacks", "errbacks", "chain", "chord")}
    try:
        return json.dumps([args, kwargs, embed])
    except RecursionError as error:
        raise ValueError(f"its arguments are nested too deep: {error}") from error


def _is_naive(moment: Any) -> bool:
    try:
        return datetime.fromisoformat(moment).tzinfo is None
    except (TypeError, ValueError):
        return False  # the checks of every message name a bad value


def _decoded(text: str, what: str) -> str:
    try:
        return base64.b64decode(text, validate=True).decode()
    except ValueError as error:
        raise ValueError(f"{what} is not Base64 of text: {error}") from error


def _json(text: Any) -> Any:
    try:
        return json.loads(text)
    except (TypeError, ValueError, RecursionError):
        return None
