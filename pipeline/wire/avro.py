"""Types of Avro, and their binary encoding of JSON data.

The encoding is that of the Avro specification 1.12, "Binary encoding" and "Logical types". It is written here
and not by a library: libraries guess the branch of a union from the value, and this project knows it; and an
event that is sent again must have the same bytes, also after a library's update.
"""

import base64
import binascii
import re
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time
from decimal import Decimal, InvalidOperation
from typing import Any, Final, Protocol
from uuid import UUID

from pydantic_core import from_json

#: Names of records, enums, their fields and symbols ("Names" in the specification).
NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

_EPOCH: Final = datetime(1970, 1, 1)
_SHOWN: Final = 60


class Misfit(ValueError):  # noqa: N818 - a finding about a value, which a union tries to avoid
    """A JSON value that is not of a type; the message says where and why."""


class AvroType(Protocol):
    """A type: how a schema writes it, and how it writes a JSON value."""

    def schema(self, named: set[str]) -> Any:
        """Return the type as JSON; ``named`` has the names that are defined further up, and is added to."""

    def write(self, value: Any, out: bytearray, path: str) -> None:
        """Append the encoding of a JSON value. Raise ``Misfit`` where it is not of this type."""


def encode(kind: AvroType, data: bytes) -> bytes:
    """Return the Avro body of JSON data; raise ``Misfit`` where the data is not of the type."""
    out = bytearray()
    kind.write(from_json(data), out, "")
    return bytes(out)


@dataclass(frozen=True)
class Primitive:
    """A type without a name: its schema, and the function that appends a JSON value.

    The function raises ValueError, TypeError or OverflowError for a value of another type.
    """

    form: Any
    append: Callable[[Any, bytearray], None]
    #: The only values that it takes; empty for all.
    only: tuple[Any, ...] = ()

    def schema(self, named: set[str]) -> Any:
        """Return the type as JSON."""
        return self.form

    def write(self, value: Any, out: bytearray, path: str) -> None:
        """Append a value."""
        if self.only and value not in self.only:
            raise _misfit(path, value, f"one of {', '.join(map(repr, self.only))}")
        try:
            self.append(value, out)
        except (ValueError, TypeError, OverflowError, InvalidOperation) as error:
            kind = self.form if isinstance(self.form, str) else self.form["logicalType"]
            raise _misfit(path, value, f"{kind} ({error})") from error


@dataclass(frozen=True)
class Enum:
    """Texts with a name for their set."""

    name: str
    symbols: tuple[str, ...]
    doc: str = ""

    def schema(self, named: set[str]) -> Any:
        """Return the type as JSON."""
        if self.name in named:
            return self.name
        named.add(self.name)
        return {"type": "enum", "name": self.name, **_doc(self.doc), "symbols": list(self.symbols)}

    def write(self, value: Any, out: bytearray, path: str) -> None:
        """Append the position of a symbol."""
        if value not in self.symbols:
            raise _misfit(path, value, f"one of {', '.join(self.symbols)}")
        _long(self.symbols.index(value), out)


@dataclass(frozen=True)
class RecordField:
    """A field of a record."""

    name: str
    kind: AvroType
    doc: str = ""
    #: What a reader takes where the field is missing, as JSON; () for none.
    default: tuple[Any, ...] = ()


@dataclass(eq=False)
class Record:
    """Fields with a name for their set. Its fields are set after it is made: it may contain itself."""

    name: str
    doc: str = ""
    fields: Sequence[RecordField] = field(default=())

    def schema(self, named: set[str]) -> Any:
        """Return the type as JSON."""
        if self.name in named:
            return self.name
        named.add(self.name)
        fields = [
            {
                "name": each.name,
                **_doc(each.doc),
                "type": each.kind.schema(named),
                **({"default": each.default[0]} if each.default else {}),
            }
            for each in self.fields
        ]
        return {"type": "record", "name": self.name, **_doc(self.doc), "fields": fields}

    def write(self, value: Any, out: bytearray, path: str) -> None:
        """Append the fields of an object."""
        if not isinstance(value, dict):
            raise _misfit(path, value, f"an object, for record {self.name}")
        names = {each.name for each in self.fields}
        if other := value.keys() - names:
            raise Misfit(f"{path or 'the value'}: record {self.name} has no field {', '.join(sorted(other))}")
        for each in self.fields:
            if each.name not in value:
                raise Misfit(f"{path or 'the value'}: the field {each.name} of record {self.name} is missing")
            each.kind.write(value[each.name], out, _inside(path, each.name))


@dataclass(frozen=True)
class Array:
    """A list of one type."""

    items: AvroType

    def schema(self, named: set[str]) -> Any:
        """Return the type as JSON."""
        return {"type": "array", "items": self.items.schema(named)}

    def write(self, value: Any, out: bytearray, path: str) -> None:
        """Append a list as one block."""
        if not isinstance(value, list):
            raise _misfit(path, value, "a list")
        if value:
            _long(len(value), out)
            for at, item in enumerate(value):
                self.items.write(item, out, _inside(path, str(at)))
        out.append(0)


@dataclass(frozen=True)
class Map:
    """An object with any keys and values of one type."""

    values: AvroType

    def schema(self, named: set[str]) -> Any:
        """Return the type as JSON."""
        return {"type": "map", "values": self.values.schema(named)}

    def write(self, value: Any, out: bytearray, path: str) -> None:
        """Append an object as one block."""
        if not isinstance(value, dict):
            raise _misfit(path, value, "an object")
        if value:
            _long(len(value), out)
            for key, item in value.items():
                _string(key, out)
                self.values.write(item, out, _inside(path, key))
        out.append(0)


@dataclass(frozen=True)
class Union:
    """One of several types: the first one that takes the value."""

    branches: tuple[AvroType, ...]

    def schema(self, named: set[str]) -> Any:
        """Return the type as JSON."""
        return [branch.schema(named) for branch in self.branches]

    def write(self, value: Any, out: bytearray, path: str) -> None:
        """Append the position of the branch, and the value."""
        reasons: list[str] = []
        start = len(out)
        for at, branch in enumerate(self.branches):
            try:
                _long(at, out)
                branch.write(value, out, path)
            except Misfit as error:
                del out[start:]
                reasons.append(str(error))
            else:
                return
        raise Misfit("; ".join(dict.fromkeys(reasons)))


def _doc(text: str) -> Mapping[str, str]:
    return {"doc": text} if text else {}


def _inside(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _misfit(path: str, value: Any, wanted: str) -> Misfit:
    return Misfit(f"{path or 'the value'} is {str(value)[:_SHOWN]!r}, which is not {wanted}")


# ─── primitives ───


def _long(number: Any, out: bytearray) -> None:
    """Append an integer: zigzag, then seven bits a byte, the lowest first."""
    if not isinstance(number, int) or isinstance(number, bool):
        raise TypeError("a whole number is wanted")
    if not -(1 << 63) <= number < 1 << 63:
        raise OverflowError("it has more than 64 bits")
    bits = (number << 1) ^ (number >> 63)
    while bits > 0x7F:
        out.append(bits & 0x7F | 0x80)
        bits >>= 7
    out.append(bits)


def _double(number: Any, out: bytearray) -> None:
    if not isinstance(number, int | float) or isinstance(number, bool):
        raise TypeError("a number is wanted")
    out += struct.pack("<d", number)


def _string(text: Any, out: bytearray) -> None:
    _bytes(_text(text).encode(), out)


def _bytes(data: bytes, out: bytearray) -> None:
    _long(len(data), out)
    out += data


def _base64(text: Any, out: bytearray) -> None:
    """Append the bytes of a text in base64, of either alphabet."""
    try:
        data = base64.b64decode(_text(text).translate(_STANDARD), validate=True)
    except binascii.Error as error:
        raise ValueError(f"it is no base64: {error}") from error
    _bytes(data, out)


def _boolean(value: Any, out: bytearray) -> None:
    if not isinstance(value, bool):
        raise TypeError("true or false is wanted")
    out.append(value)


def _null(value: Any, _out: bytearray) -> None:
    if value is not None:
        raise TypeError("null is wanted")


def _uuid(text: Any, out: bytearray) -> None:
    _string(str(UUID(_text(text))), out)


def _date(text: Any, out: bytearray) -> None:
    _long((date.fromisoformat(_text(text)) - _EPOCH.date()).days, out)


def _time(text: Any, out: bytearray) -> None:
    moment = time.fromisoformat(_text(text))
    if moment.tzinfo:
        raise ValueError("it has a time zone, which Avro's time has not")
    seconds = (moment.hour * 60 + moment.minute) * 60 + moment.second
    _long(seconds * 1_000_000 + moment.microsecond, out)


def _timestamp(text: Any, out: bytearray) -> None:
    moment = datetime.fromisoformat(_text(text))
    if moment.tzinfo is None:
        raise ValueError("it has no time zone: give it one, or annotate pydantic's NaiveDatetime")
    _long(_microseconds(moment.astimezone(UTC).replace(tzinfo=None)), out)


def _local_timestamp(text: Any, out: bytearray) -> None:
    moment = datetime.fromisoformat(_text(text))
    if moment.tzinfo:
        raise ValueError("it has a time zone, and a naive time is annotated")
    _long(_microseconds(moment), out)


def _microseconds(moment: datetime) -> int:
    since = moment - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("a text is wanted")
    return value


#: From the alphabet of URLs to the standard one.
_STANDARD: Final = str.maketrans("-_", "+/")

NULL: Final = Primitive("null", _null)
BOOLEAN: Final = Primitive("boolean", _boolean)
LONG: Final = Primitive("long", _long)
DOUBLE: Final = Primitive("double", _double)
STRING: Final = Primitive("string", _string)
BYTES: Final = Primitive("bytes", _base64)
UUID_TEXT: Final = Primitive({"type": "string", "logicalType": "uuid"}, _uuid)
DATE: Final = Primitive({"type": "int", "logicalType": "date"}, _date)
TIME: Final = Primitive({"type": "long", "logicalType": "time-micros"}, _time)
TIMESTAMP: Final = Primitive({"type": "long", "logicalType": "timestamp-micros"}, _timestamp)
LOCAL_TIMESTAMP: Final = Primitive(
    {"type": "long", "logicalType": "local-timestamp-micros"}, _local_timestamp
)


def decimal(precision: int, scale: int) -> Primitive:
    """Return the type of decimals with ``scale`` digits after the point and ``precision`` in all."""

    def append(value: Any, out: bytearray) -> None:
        number = Decimal(
            value if isinstance(value, str | int) and not isinstance(value, bool) else _text(value)
        )
        if not number.is_finite():
            raise ValueError("it is no number")
        sign, digits, exponent = number.as_tuple()
        assert isinstance(exponent, int)
        if len(digits) + exponent + scale > precision:
            raise ValueError(f"it has more than {precision - scale} digits before the point")
        shifted = int("".join(map(str, digits))) * 10 ** max(0, exponent + scale)
        unscaled, rest = divmod(shifted, 10 ** max(0, -(exponent + scale)))
        if rest:
            raise ValueError(f"it has more than {scale} digits after the point")
        unscaled = -unscaled if sign else unscaled
        _bytes(unscaled.to_bytes((unscaled.bit_length() + 8) // 8, "big", signed=True), out)

    form = {"type": "bytes", "logicalType": "decimal", "precision": precision, "scale": scale}
    return Primitive(form, append)


def wire_type(kind: AvroType) -> str:
    """Return the type without its logical type: a union has one of each, named ones apart."""
    if isinstance(kind, Record | Enum):
        return kind.name
    form = kind.schema(set())
    return str(form["type"] if isinstance(form, dict) else form)


def flattened(kinds: Sequence[AvroType]) -> Iterator[AvroType]:
    """Yield the types of a union, and those of the unions in it: Avro has no union within a union."""
    for kind in kinds:
        yield from flattened(kind.branches) if isinstance(kind, Union) else (kind,)
