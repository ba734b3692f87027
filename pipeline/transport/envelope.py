"""The envelope of a task: a Celery message as it was received, checked before the worker sees it.

A message that Celery cannot take apart ends the event loop of the worker, then that of the next one. So
everything that Celery relies on is checked here, before delivery.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.errors import InvalidInputError
from pipeline.transport.stockmessage import as_own, is_of_others, plain_text
from pipeline.wire.references import REFERENCE_TYPE, Reference, ReferencedBody

#: The content type and encoding of a task message; that of one whose data is on S3 differs in its type.
CONTENT: Final = ("application/json", "utf-8")
#: The only content types and encodings.
_ALLOWED: Final = (("application/json", REFERENCE_TYPE), ("utf-8",))
#: The key of a payload that holds its body, parsed: [args, kwargs, embed].
PARSED: Final = "parsed"

_SURROGATE: Final = re.compile(r"\\u[dD][89a-fA-F]")

#: The most characters of an id: it becomes a part of keys in SQS, DynamoDB and Kafka.
LONGEST_ID: Final = 255

_Id = Annotated[str, Field(min_length=1, max_length=LONGEST_ID)]
_Moment = Annotated[str, Field(min_length=1)]
_Count = Annotated[int, Field(ge=0)]
_Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Read(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")


class _Headers(_Read):
    """The headers that Celery's worker reads before it runs a task. Other headers are not checked."""

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


@dataclass(frozen=True, kw_only=True, slots=True)
class Envelope:
    """A task message as received, in Celery's protocol 2 and JSON, however its client wrote it."""

    task_id: str
    #: Celery's name of the task
    task_name: str
    #: Celery's headers, with those of this project
    headers: Mapping[str, Any]
    args: list[Any]
    kwargs: dict[str, Any]
    #: callbacks, errbacks, chain and chord; of a body that is on S3 the errbacks only
    embed: Mapping[str, Any]
    #: the text that ``args``, ``kwargs`` and ``embed`` were parsed from
    body: str
    #: where the data is, or the body of a plain task; None: ``body`` has it
    reference: Reference | None = None
    #: the payload as kombu wrote it: body, headers, properties, content-type, content-encoding
    payload: Mapping[str, Any]

    @property
    def eta(self) -> str | None:
        """When the task is due (ISO 8601); None: now."""
        eta: str | None = self.headers.get("eta")
        return eta

    def delivered_as(self, tag: str, *, redelivered: bool) -> dict[str, Any]:
        """Return the payload that kombu expects, under this delivery tag, with the parsed body.

        ``redelivered``: whether a worker received the message before.
        """
        properties = dict(self.payload["properties"])
        delivery = {**properties["delivery_info"], "redelivered": redelivered}
        properties |= {"delivery_tag": tag, "delivery_info": delivery}
        return {**self.payload, "properties": properties, PARSED: [self.args, self.kwargs, self.embed]}


def open_envelope(text: str) -> Envelope:
    """Parse and check the body of an SQS message.

    Raises ``InvalidInputError``, which says what is wrong with it.
    """
    payload = _checked(_read(text))
    _refuse_content(payload)
    payload["properties"].setdefault("delivery_info", {})
    headers, body = payload["headers"], payload["body"]
    referenced = ReferencedBody.read(body) if payload["content-type"] == REFERENCE_TYPE else None
    args, kwargs, embed = _parsed(body) if referenced is None else _unread(referenced)
    return Envelope(
        task_id=headers["id"],
        task_name=headers["task"],
        headers=headers,
        args=args,
        kwargs=kwargs,
        embed=embed or {},
        body=body,
        reference=referenced.reference if referenced else None,
        payload=payload,
    )


def _read(text: str) -> Any:
    """Return the payload in the text of a message, as this project's clients write it."""
    try:
        text = plain_text(text)
        payload = _json(text, "the message")
        if is_of_others(payload):
            _refuse_content(payload)
            payload = as_own(payload)
    except ValueError as error:
        raise _invalid(str(error)) from error
    if _SURROGATE.search(text):
        _refuse_half_characters(payload)
    return payload


def _refuse_content(payload: dict[str, Any]) -> None:
    for name, allowed in zip(("content-type", "content-encoding"), _ALLOWED, strict=True):
        if payload.setdefault(name, allowed[0]) not in allowed:
            raise _invalid(f"{name} is {payload[name]!r}, only {' or '.join(allowed)} is accepted")


def _unread(body: ReferencedBody) -> list[Any]:
    return [[], {}, {"errbacks": body.errbacks}]


def _refuse_half_characters(payload: dict[str, Any]) -> None:
    """Refuse half a surrogate pair: JSON can escape it, but no log, key or Kafka record holds it."""
    try:
        json.dumps(payload, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise _invalid(f"it is not Unicode: {error}") from error
    except RecursionError as error:
        raise _invalid(f"it is nested too deep: {error}") from error


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
