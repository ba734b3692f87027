"""The envelope: what a message body must be before the worker may see it.

Celery's event loop ends on a message it cannot take apart, and so would the next worker's: all that it
relies on is checked here, before delivery.
"""

import json
import re
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.errors import InvalidInputError

#: Where the payload holds what is in its body, parsed: [args, kwargs, embed].
PARSED: Final = "parsed"

_SURROGATE: Final = re.compile(r"\\u[dD][89a-fA-F]")

#: An id becomes a part of keys in SQS, DynamoDB and Kafka.
_Id = Annotated[str, Field(min_length=1, max_length=255)]
_Moment = Annotated[str, Field(min_length=1)]
_Count = Annotated[int, Field(ge=0)]
_Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Read(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")


class _Headers(_Read):
    """The headers that Celery's worker reads before it runs a task; others pass unseen."""

    id: _Id
    task: _Id
    root_id: _Id | None = None
    parent_id: _Id | None = None
    group: _Id | None = None
    shadow: str | None = None
    eta: _Moment | None = None
    expires: _Moment | None = None
    retries: _Count | None = None
    replaced_task_nesting: _Count | None = None
    timelimit: Annotated[list[_Seconds | None], Field(min_length=2, max_length=2)] | None = None
    argsrepr: str | None = None
    kwargsrepr: str | None = None
    stamped_headers: list[str] | None = None
    stamps: dict[str, Any] | None = None
    message_group: str | None = None
    traceparent: str | None = None
    #: kombu would decompress the body, which travels as text here
    compression: None = None


class _Properties(_Read):
    """The properties that kombu reads."""

    delivery_info: dict[str, Any] = {}
    #: kombu would decode the body with it
    body_encoding: Literal["utf-8"] | None = None


class _Payload(_Read):
    """A Celery message as kombu puts it into one text."""

    body: str
    headers: _Headers
    properties: _Properties


def open_envelope(text: str) -> dict[str, Any]:
    """The Celery message (protocol 2, JSON) in the body of an SQS message.

    Returns the payload that kombu expects: body, headers, properties, content-type, content-encoding; with
    the body parsed (``PARSED``). Raises ``InvalidInputError`` that says what is wrong with it.
    """
    payload = _checked(_json(text, "the message"))
    if _SURROGATE.search(text):
        _refuse_half_characters(payload)
    for name, only in (("content-type", "application/json"), ("content-encoding", "utf-8")):
        if payload.setdefault(name, only) != only:
            raise _invalid(f"{name} is {payload[name]!r}, only {only} is accepted")
    payload["properties"].setdefault("delivery_info", {})
    payload[PARSED] = _parsed(payload["body"])
    return payload


def _refuse_half_characters(payload: dict[str, Any]) -> None:
    """JSON can escape half a character; no log, key or Kafka record can hold it."""
    try:
        json.dumps(payload, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise _invalid(f"it is not Unicode: {error}") from error


def _checked(payload: Any) -> dict[str, Any]:
    try:
        _Payload.model_validate(payload)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'it'}: {e['msg']}" for e in error.errors())
        raise _invalid(wrong) from error
    checked: dict[str, Any] = payload
    return checked


def _parsed(text: str) -> list[Any]:
    body = _json(text, "its body")
    if not (isinstance(body, list) and len(body) == 3):
        raise _invalid("its body is not [args, kwargs, embed]")
    args, kwargs, embed = body
    if not (isinstance(args, list) and isinstance(kwargs, dict) and isinstance(embed, dict | None)):
        raise _invalid("args, kwargs or embed have the wrong type")
    return body


def _json(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _invalid(f"{what} is not JSON: {error}") from error


def _invalid(reason: str) -> InvalidInputError:
    return InvalidInputError(f"not a Celery message: {reason}")
