"""Comparison of a value with the one that is read again from its JSON."""

import dataclasses
import json
import math
import re
from collections import deque
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from decimal import Decimal
from enum import Enum
from typing import Any, Final

from pydantic import BaseModel, SecretBytes, SecretStr
from pydantic.types import Secret
from pydantic_core import to_jsonable_python

_SECRETS: Final = (SecretStr, SecretBytes, Secret)
_SEQUENCES: Final = (list, tuple, set, frozenset, deque)

#: A number that a float may not hold, or not with all its digits, and the two that are no JSON.
_UNSAFE: Final = re.compile(rb"NaN|Infinity|[eE]\+?\d{3}|[\d.]{17,}")

#: Characters of a value that are shown.
_SHOWN: Final = 80


def difference(value: Any, again: Any, *, loose: bool) -> str | None:
    """Return how ``again``, read from the JSON of ``value``, differs from it; None where it does not.

    ``loose``: the annotation holds Any, which reads a date as the text that stands for it.
    """
    try:
        if value is again or bool(value == again):
            return None
    except (TypeError, ValueError):
        pass  # compared piece by piece, as arrays are
    return _differs(value, again, "", loose)


def non_finite(value: Any) -> str | None:
    """Return the place and value of a number that is not finite; None where all are."""
    for path, leaf in _leaves(value, ""):
        if _is_non_finite(leaf):
            return f"{path or 'it'} is {leaf}, which JSON cannot hold"
    return None


def hidden_secret(value: Any) -> str | None:
    """Return the place of a secret that is written as asterisks; None where there is none."""
    return next(
        (_secret(leaf, path) for path, leaf in _leaves(value, "") if isinstance(leaf, _SECRETS)), None
    )


def unsafe_numbers(data: str | bytes, value: Any) -> str | None:
    """Return which number of JSON text is not the one in ``value`` that was read from it; None for none.

    A float takes 1e999 as infinity. A Decimal takes a number with more digits than a float has without them.
    """
    if not _UNSAFE.search(data if isinstance(data, bytes) else data.encode(errors="replace")):
        return None
    found = _Numbers()
    json.loads(data, parse_float=found.see, parse_int=found.see, parse_constant=found.see)
    if found.infinite and (place := non_finite(value)):
        return f"{place}: it was written as {found.infinite[0][:_SHOWN]}"
    if found.rounded:
        for path, leaf in _leaves(value, ""):
            if isinstance(leaf, Decimal) and leaf in found.rounded:
                written = found.rounded[leaf][:_SHOWN]
                return f"{path or 'it'}: {written} loses digits as a number of JSON. Write it as a text"
    return None


class _Numbers:
    """Collects the numbers of a JSON text that a float does not hold."""

    def __init__(self) -> None:
        self.infinite: list[str] = []
        #: What a float makes of a number with too many digits → that number.
        self.rounded: dict[Decimal, str] = {}

    def see(self, token: str) -> int:
        """Take one number; return 0, as its value is not needed."""
        number = float(token)
        if not math.isfinite(number):
            self.infinite.append(token)
        elif not token.lstrip("-").isdigit() and Decimal(repr(number)) != Decimal(token):
            self.rounded[Decimal(repr(number))] = token
        return 0


def fields_of(value: Any) -> dict[str, Any] | None:
    """Return the fields of a model or dataclass that are written; None for any other value."""
    if isinstance(value, BaseModel):
        kept = {
            name: getattr(value, name)
            for name, field in type(value).model_fields.items()
            if not field.exclude and hasattr(value, name)
        }
        computed = type(value).model_computed_fields
        extra = {name: each for name, each in (value.model_extra or {}).items() if name not in computed}
        return {**kept, **extra}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        return {name: getattr(value, name) for name in names if hasattr(value, name)}
    return None


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield every plain value inside, with its place."""
    if (fields := fields_of(value)) is not None:
        for name, each in fields.items():
            yield from _leaves(each, f"{path}.{name}".lstrip("."))
    elif isinstance(value, Mapping):
        for key, each in value.items():
            yield from _leaves(key, path)
            yield from _leaves(each, f"{path}.{key}".lstrip("."))
    elif isinstance(value, _SEQUENCES):
        for number, each in enumerate(value):
            yield from _leaves(each, f"{path}[{number}]")
    else:
        yield path, value


def _differs(value: Any, again: Any, path: str, loose: bool) -> str | None:
    fields = fields_of(value)
    if fields is not None and fields_of(again) is None and loose:
        # Under Any, a model is read again as the object that it is written as.
        written = to_jsonable_python(value, by_alias=True, inf_nan_mode="constants")
        return _differs(written, again, path, loose)
    if fields is not None:
        return _fields_differ(value, again, fields, path, loose)
    if isinstance(value, Mapping) and isinstance(again, Mapping):
        return _mappings_differ(value, again, path, loose)
    if isinstance(value, AbstractSet) and isinstance(again, AbstractSet):
        return None if value == again else _report(value, again, path)
    if isinstance(value, _SEQUENCES) and isinstance(again, _SEQUENCES):
        if len(value) != len(again):
            return _report(value, again, path)
        pairs = enumerate(zip(value, again, strict=True))
        found = (_differs(one, other, f"{path}[{number}]", loose) for number, (one, other) in pairs)
        return next(filter(None, found), None)
    return None if _same(value, again, loose) else _report(value, again, path)


def _fields_differ(value: Any, again: Any, fields: dict[str, Any], path: str, loose: bool) -> str | None:
    others = fields_of(again) or {}
    kind, other_kind = type(value).__name__, type(again).__name__
    if lost := [name for name in fields if name not in others]:
        names = ", ".join(lost)
        return f"{path or 'it'} is {kind} and read again as {other_kind}, without {names}. Annotate {kind}"
    found = (
        _differs(each, others[name], f"{path}.{name}".lstrip("."), loose) for name, each in fields.items()
    )
    return next(filter(None, found), None)


def _mappings_differ(
    value: Mapping[Any, Any], again: Mapping[Any, Any], path: str, loose: bool
) -> str | None:
    if len(value) != len(again):
        return _report(value, again, path)
    for (key, one), (other_key, other) in zip(value.items(), again.items(), strict=True):
        if not (
            _same(key, other_key, loose) or (loose and isinstance(key, int) and isinstance(other_key, str))
        ):
            return f"the key {_show(key)} of {path or 'it'} is read again as {_show(other_key)}"
        if found := _differs(one, other, f"{path}.{key}".lstrip("."), loose):
            return found
    return None


def _same(value: Any, again: Any, loose: bool) -> bool:
    """Whether two plain values are the same; True for values of a type that does not define equality."""
    if isinstance(value, float) and isinstance(again, float) and math.isnan(value):
        return math.isnan(again)
    if getattr(type(value), "__eq__", None) is object.__eq__:
        return True
    if bool(value == again):
        return True
    if not loose or _is_non_finite(value) or isinstance(value, _SECRETS):
        return False
    if isinstance(value, Enum):
        return bool(value.value == again)
    return isinstance(again, str) and not isinstance(value, str | int | float | None)


def _is_non_finite(value: Any) -> bool:
    if isinstance(value, Decimal):
        return not value.is_finite()
    return isinstance(value, float) and not math.isfinite(value)


def _report(value: Any, again: Any, path: str) -> str:
    place = path or "it"
    if _is_non_finite(value):
        return f"{place} is {value}, which JSON cannot hold"
    if isinstance(value, _SECRETS):
        return _secret(value, path)
    return f"{place} is {_show(value)} and read again as {_show(again)}"


def _secret(value: Any, path: str) -> str:
    return (
        f"{path or 'it'} is {type(value).__name__}, which is written as asterisks. Hand on a reference to "
        "the secret, or give the field a serializer that returns get_secret_value()"
    )


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
