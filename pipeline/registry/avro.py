"""Reading of Avro as JSON, safe from schemas and records that would end or fill the process.

fastavro's compiled reader ends the process where a record nests without end (seen with 1.13), and an array of
items that take no bytes may have any number of them in five. Schemas that allow either are read otherwise, or
not at all.
"""

import base64
import io
import json
from collections.abc import Callable, Mapping
from typing import Any

from pydantic_core import to_json

from pipeline.errors import InvalidEventError
from pipeline.registry.client import Schema

#: How deep a schema's own text may nest, and the most values that a record without any array or map may have.
MAX_DEPTH, MAX_VALUES = 100, 20_000

#: The most values in an item of an array or map for each byte that the item takes at least: a record of 1 MB
#: then has no more than some million values.
MAX_VALUES_A_BYTE = 16

#: Primitive types, and the fewest bytes of each.
_LEAST = {"null": 0, "boolean": 1, "int": 1, "long": 1, "float": 4, "double": 8, "bytes": 1, "string": 1}

_Read = Callable[[bytes], bytes]


def avro_reader(schema: Schema) -> _Read:
    """Return the function that reads a record of ``schema`` as JSON; raises InvalidEventError.

    The function raises ValueError, or whatever fastavro raises for bytes that do not fit.
    """
    import fastavro
    from fastavro import _read_py
    from fastavro.schema import SchemaParseException, UnknownType

    named: dict[str, Any] = {}
    try:
        for reference in schema.references:
            fastavro.parse_schema(_loaded(reference.text), named_schemas=named)
        written = _loaded(schema.text)
        parsed = fastavro.parse_schema(written, named_schemas=named)
        weight = _Weight(named)
        weight.of(parsed)
    except (SchemaParseException, UnknownType, ValueError, KeyError, TypeError) as error:
        raise InvalidEventError(f"not an Avro schema: {type(error).__name__}: {error}") from error
    # Without end only in Python's own reader: the interpreter ends it with an error.
    read = _read_py.schemaless_reader if weight.recursive else fastavro.schemaless_reader

    def as_json(content: bytes) -> bytes:
        stream = io.BytesIO(content)
        value = read(stream, parsed, None)
        if left := len(content) - stream.tell():
            raise ValueError(f"{left} bytes follow its end")
        # NaN and infinity as text: JSON has no numbers for them.
        return to_json(_plain(value) if weight.has_bytes else value, inf_nan_mode="strings")

    return as_json


def _loaded(text: str) -> Any:
    """Return a schema's JSON; raises ValueError where it nests too deep for the parsers after it."""
    try:
        loaded = json.loads(text)
    except RecursionError as error:
        raise ValueError("it nests too deep") from error
    level: list[Any] = [loaded]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for each in level
            if isinstance(each, dict | list)
            for inner in (each.values() if isinstance(each, dict) else each)
        ]
    if level:
        raise ValueError(f"it nests more than {MAX_DEPTH} deep")
    return loaded


def _plain(value: Any) -> Any:
    """Return a value with its bytes as base64 (RFC 4648, section 4)."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return value


class _Weight:
    """How few bytes the values of a schema may take, and how many values they then are."""

    def __init__(self, named: Mapping[str, Any]) -> None:
        self._named = named
        self._known: dict[str, tuple[int, int]] = {}
        #: The named types that are being looked at.
        self._open: set[str] = set()
        #: Whether a type contains itself.
        self.recursive = False
        #: Whether a value may be bytes.
        self.has_bytes = False

    def of(self, schema: Any) -> tuple[int, int]:
        """Return the fewest bytes of a value, and the most values in as many; raises ValueError."""
        if isinstance(schema, list):
            # A branch's number, and the branch.
            branches = [self.of(each) for each in schema]
            return 1 + min((least for least, _ in branches), default=0), _capped(
                1 + max((values for _, values in branches), default=0)
            )
        if isinstance(schema, str):
            return self._of_name(schema)
        kind = schema["type"]
        if kind in ("record", "error"):
            return self._of_record(schema)
        if kind in ("array", "map"):
            self._of_items(schema["items" if kind == "array" else "values"], kind)
            return 1, 1
        if kind == "enum":
            return 1, 1
        if kind == "fixed":
            self.has_bytes = True
            return int(schema["size"]), 1
        return self.of(kind)

    def _of_name(self, name: str) -> tuple[int, int]:
        if name in _LEAST:
            self.has_bytes = self.has_bytes or name == "bytes"
            return _LEAST[name], 1
        if name in self._open:
            self.recursive = True
            return 1, 1
        if name not in self._known:
            self._known[name] = self.of(self._named[name])
        return self._known[name]

    def _of_record(self, schema: Mapping[str, Any]) -> tuple[int, int]:
        name = schema["name"]
        if name in self._open:
            self.recursive = True
            return 1, 1
        self._open.add(name)
        fields = [self.of(field["type"]) for field in schema["fields"]]
        self._open.discard(name)
        found = sum(least for least, _ in fields), _capped(1 + sum(values for _, values in fields))
        self._known[name] = found
        return found

    def _of_items(self, items: Any, kind: str) -> None:
        least, values = self.of(items)
        least += kind == "map"
        if values > least * MAX_VALUES_A_BYTE:
            raise ValueError(f"an item of its {kind} has {values} values in as few as {least} bytes")


def _capped(values: int) -> int:
    if values > MAX_VALUES:
        raise ValueError(f"a record has more than {MAX_VALUES:,} values")
    return values
