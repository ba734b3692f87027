"""The text of headers as the tools of others write it: plain, or as a string in JSON."""

from collections.abc import Iterable, Set

from pydantic_core import from_json

from pipeline.errors import InvalidEventError

#: How the JSON of Kafka Connect's JsonConverter begins with a schema beside the value, its default.
_WITH_SCHEMA = '{"schema":'


def text_of(value: bytes | None) -> str:
    """Return the text of a header that may be none."""
    return (value or b"").decode(errors="replace")


def unquoted(text: str) -> str:
    """Return the string that a JSON converter of Kafka Connect or Spring wrote; any other text as it is."""
    if not text.startswith(('"', _WITH_SCHEMA)):
        return text
    try:
        found = from_json(text)
    except ValueError:
        return text
    if isinstance(found, dict) and found.keys() == {"schema", "payload"}:
        found = found["payload"] or ""
    return found if isinstance(found, str) else text


def attributes_in(
    headers: Iterable[tuple[str, bytes | None]], prefix: str, known: Set[str]
) -> dict[str, str]:
    """Return the CloudEvents attributes of a record by name; {} where none of its headers is a known one.

    Of two headers with one name the last counts, as Kafka's clients have it. One without a value is none. An
    extension that is no text is passed over; a known attribute raises InvalidEventError. A JSON converter
    quotes every header, and so the version: where it has no quotes, those of the others belong to them.
    """
    last = {name[len(prefix) :].lower(): text for name, text in headers if name.lower().startswith(prefix)}
    if not known & last.keys():
        return {}
    found = {}
    for name, value in last.items():
        try:
            found[name] = (value or b"").decode()
        except UnicodeDecodeError as error:
            if name in known:
                raise InvalidEventError(
                    f"header {prefix}{name} is not UTF-8: {text_of(value)[:100]!r}"
                ) from error
    version = found.get("specversion", "")
    if unquoted(version) != version:
        found = {name: unquoted(text) for name, text in found.items()}
    return {name: text for name, text in found.items() if text}
