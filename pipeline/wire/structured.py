"""CloudEvents in structured mode: the whole event is one JSON object, the record's value.

Its members are the attributes of binary mode, where they are headers, beside ``data`` or ``data_base64``
(github.com/cloudevents/spec, formats/json-format.md). So an event has the same ids in either mode.
"""

import base64
import binascii
import json
from typing import Any, Final

from pydantic_core import from_json

from pipeline.errors import InvalidEventError

#: The media type of one event, and of several in one record.
MEDIA_TYPE: Final = "application/cloudevents+json"
BATCH_TYPE: Final = "application/cloudevents-batch+json"

#: Members that are no attributes.
_DATA: Final = ("data", "data_base64")

_SPACE: Final = " \t\n\r"

#: Finds where a value ends. It makes no numbers: one of thousands of digits is data like any other.
_decode: Final = json.JSONDecoder(parse_int=str, parse_float=str).raw_decode


def refuse_media(media: str) -> None:
    """Raise ``InvalidEventError`` where a content type of CloudEvents is not that of one event in JSON."""
    if media == BATCH_TYPE:
        raise InvalidEventError(
            f"content-type is {media}: a record with several events has no one id, entity and job. Send each "
            "event in a record of its own."
        )
    if media != MEDIA_TYPE:
        raise InvalidEventError(
            f"content-type is {media[:100]}, a format of CloudEvents that is not read here. Send "
            f"{MEDIA_TYPE}, or binary mode, with the attributes as ce_* headers and the data as the value."
        )


def open_structured(value: bytes) -> tuple[dict[str, str], bytes]:
    """Return the attributes of an event, as text, and its data, as it stands in ``value``.

    ``value`` was checked to be JSON. Raises ``InvalidEventError`` where it is no event.
    """
    members = from_json(value)
    if not isinstance(members, dict):
        raise InvalidEventError("not a CloudEvents event in structured mode: the value is no JSON object")
    attributes = {
        name: _text(name, each) for name, each in members.items() if name not in _DATA and each is not None
    }
    media = attributes.get("datacontenttype", "application/json").partition(";")[0].strip().lower()
    if media != "application/json" and not media.endswith("+json"):
        raise InvalidEventError(f"datacontenttype is {media[:100]!r}: a stage takes JSON")
    given = [name for name in _DATA if name in members]
    if len(given) != 1:
        raise InvalidEventError(
            f"the event has {' and '.join(given) or 'neither data nor data_base64'}. Send one of the two."
        )
    if given == ["data"]:
        return attributes, _member(value, "data")
    try:
        return attributes, base64.b64decode(members["data_base64"], validate=True)
    except (binascii.Error, ValueError, TypeError) as error:
        raise InvalidEventError(f"data_base64 cannot be decoded: {error}") from error


def _text(name: str, value: Any) -> str:
    """Return an attribute as a header has it: JSON allows text, whole numbers and booleans."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    raise InvalidEventError(f"the attribute {name[:60]!r} is no text, number or boolean")


def _member(value: bytes, wanted: str) -> bytes:
    """Return the JSON of a member of an object, unchanged; of two with one name the last, as parsers do."""
    text = value.decode()
    found, at = "", text.index("{") + 1
    while True:
        at = _skip(text, at)
        if text[at] == "}":
            return found.encode()
        if text[at] == ",":
            at = _skip(text, at + 1)
        name, at = _decode(text, at)
        begin = _skip(text, _skip(text, at) + 1)
        _, at = _decode(text, begin)
        if name == wanted:
            found = text[begin:at]


def _skip(text: str, at: int) -> int:
    while text[at] in _SPACE:
        at += 1
    return at
