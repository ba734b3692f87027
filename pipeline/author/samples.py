"""Sample data for an annotation, made from its JSON Schema, to compare what is written with what is read."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

#: How many samples are made: of a union, each takes another member.
_SAMPLES: Final = 8
#: References within references that are followed; a schema may contain itself.
_DEPTH: Final = 6

_FORMATS: Final[Mapping[str, str]] = {
    "date": "2024-02-29",
    "date-time": "2024-02-29T12:30:15.123456Z",
    "time": "12:30:15.123456",
    "duration": "P1DT2H3M4.5S",
    "uuid": "7f0f2b4e-5d0c-4c1b-9d43-0a3c2f1e6b58",
    "email": "someone@example.org",
    "idn-email": "someone@example.org",
    "uri": "https://example.org/a?b=c",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "ipvanyaddress": "192.0.2.1",
    "ipv4network": "192.0.2.0/24",
    "ipv6network": "2001:db8::/32",
    "base64": "YQ==",
    "base64url": "YQ==",
    "json-string": "1",
}
#: Tried where a text must match a pattern. The second shows whether a Decimal keeps its digits.
_TEXTS: Final = ("a", "12345678901234567890.123456789", "1.5", "1", "A", "ab", "abc", "a1", "a-1", "P1D")
_KEYS: Final = ("a", "1", "2024-02-29", "7f0f2b4e-5d0c-4c1b-9d43-0a3c2f1e6b58", "true", "1.5")


def samples(schema: Mapping[str, Any]) -> Iterator[Any]:
    """Yield data for a JSON Schema. A constraint that a schema cannot express may make it invalid."""
    seen: list[Any] = []
    for number in range(_SAMPLES):
        made = _Maker(schema.get("$defs", {}), number).make(schema, 0)
        if made not in seen:
            seen.append(made)
            yield made


class _Maker:
    """Makes one sample."""

    def __init__(self, definitions: Mapping[str, Any], number: int) -> None:
        self._definitions = definitions
        self._number = number

    def make(self, schema: Any, depth: int) -> Any:
        """Return data for a schema."""
        if not isinstance(schema, Mapping):
            return "a"
        if "$ref" in schema:
            return self.make(self._definitions.get(schema["$ref"].rsplit("/", 1)[1], {}), depth + 1)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return self._pick(schema["enum"])
        for key in ("anyOf", "oneOf"):
            if key in schema:
                return self.make(self._choice(schema[key], depth), depth)
        if len(schema.get("allOf", ())) == 1:
            return self.make(schema["allOf"][0], depth)
        kind = schema.get("type")
        if kind == "object" or "properties" in schema:
            return self._object(schema, depth)
        if kind == "array":
            return self._array(schema, depth)
        if kind in ("integer", "number"):
            return _number(schema, whole=kind == "integer")
        if kind in ("boolean", "null"):
            return True if kind == "boolean" else None
        return self._text(schema) if kind == "string" else "a"

    def _pick(self, choices: Any) -> Any:
        return choices[self._number % len(choices)]

    def _choice(self, choices: Any, depth: int) -> Any:
        """One member of a union; deep inside one that ends."""
        ends = [each for each in choices if "$ref" not in each and each.get("type") != "array"]
        return self._pick(ends if depth >= _DEPTH and ends else choices)

    def _object(self, schema: Mapping[str, Any], depth: int) -> dict[str, Any]:
        required = schema.get("required", ())
        made = {
            name: self.make(each, depth)
            for name, each in schema.get("properties", {}).items()
            if depth < _DEPTH or name in required
        }
        other = schema.get("additionalProperties")
        if isinstance(other, Mapping) or (other is True and "properties" not in schema):
            names = schema.get("propertyNames", {})
            key = (
                self._pick(_KEYS) if not names.keys() & {"$ref", "enum", "const"} else self.make(names, depth)
            )
            if depth < _DEPTH:
                made[str(key)] = self.make(other, depth)
        for pattern, each in schema.get("patternProperties", {}).items():
            made[self._text({"pattern": pattern})] = self.make(each, depth)
        return made

    def _array(self, schema: Mapping[str, Any], depth: int) -> list[Any]:
        made = [self.make(each, depth) for each in schema.get("prefixItems", ())]
        wanted = schema.get("minItems", 0 if depth >= _DEPTH else 1)
        items = schema.get("items")
        if items is not False:
            made += [self.make(items or {}, depth) for _ in range(min(wanted, 100) - len(made))]
        return made

    def _text(self, schema: Mapping[str, Any]) -> str:
        """A text within the limits of a schema. A Decimal may have the schema of any text."""
        if schema.get("format") in _FORMATS:
            return _FORMATS[schema["format"]]
        if "pattern" in schema:
            try:
                found = [text for text in _TEXTS if re.search(schema["pattern"], text)]
            except re.error:
                found = []
            return str(self._pick(found)) if found else "a"
        text = str(self._pick(_TEXTS))
        shortest, longest = int(schema.get("minLength", 0)), int(schema.get("maxLength", 1_000))
        return text.ljust(min(shortest, 10_000), "a")[:longest]


def _number(schema: Mapping[str, Any], *, whole: bool) -> int | float:
    """A number within the limits of a schema."""
    step = schema.get("multipleOf", 1)
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    if low is None and high is None:
        return step if whole or step != 1 else 1.5
    if low is None or high is None:
        near = low if low is not None else high
        away = step if low is not None else -step
        number: int | float = (near // step) * step + away
    elif whole:
        number = low + step if low + step <= high else low
    else:
        number = (low + high) / 2
    return int(number) if whole else number
