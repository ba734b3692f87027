"""The JSON of one annotation: read, written, and compared at start."""

import json
import typing
from collections.abc import Generator, Iterable, Iterator
from functools import cached_property
from types import UnionType
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import PydanticSerializationError, to_json

from pipeline.author.roundtrip import difference, hidden_secret, non_finite, unsafe_numbers
from pipeline.author.samples import samples
from pipeline.author.shape import Shape
from pipeline.errors import InvalidInputError, PermanentError, StageDefinitionError

#: Annotations of values that are read one by one.
STREAMS: Final = (Iterator, Iterable, Generator)

#: Characters of a faulty value that are shown.
_SHOWN: Final = 80


class Codec:
    """Reads and writes JSON for one annotation of a function."""

    def __init__(self, annotation: Any, where: str) -> None:
        self.annotation = annotation
        self.where = where

    # ─── at start ───

    def check(self) -> None:
        """Raise ``StageDefinitionError`` where the annotation is no type that JSON can hold."""
        if self._shape.lazy:
            place = self._shape.lazy[0] or describe(self.annotation)
            raise StageDefinitionError(
                f"{self.where}: {place} is an Iterable, whose items would be checked only while the "
                "function runs. Annotate list[…]: wrong items are then a dead letter at once."
            )

    def check_written(self) -> None:
        """Raise ``StageDefinitionError`` where a value would be written as asterisks."""
        self.check()
        if secret := next((fault for fault in self._differences if "asterisks" in fault), None):
            raise StageDefinitionError(f"{self.where}: {describe(self.annotation)}: {secret}.")

    def check_read_again(self) -> None:
        """Raise ``StageDefinitionError`` where the JSON that is written cannot be read again as the same."""
        self.check()
        if self._faults:
            raise StageDefinitionError(
                f"{self.where}: {describe(self.annotation)} is not read from JSON as the value that was "
                f"written: {self._faults[0]}."
            )

    def check_read_by(self, reader: "Codec") -> None:
        """Raise ``StageDefinitionError`` where ``reader`` cannot read what is written."""
        if without_none(self.annotation) == without_none(reader.annotation):
            self.check_read_again()
        elif misfit := self._shape.misfit(reader._shape):
            raise StageDefinitionError(
                f"{self.where} writes {describe(self.annotation)}, and {reader.where} reads "
                f"{describe(reader.annotation)}: {misfit}. Annotate both alike."
            )

    @property
    def takes_none(self) -> bool:
        """Whether None is a value of the annotation."""
        return self._shape.takes_none

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema of the data that is read; {} for what a schema cannot express."""
        try:
            return self._adapter.json_schema()
        except PydanticUserError:
            return {}

    def written_schema(
        self, generator: type[GenerateJsonSchema] = GenerateJsonSchema, references: str = "#/$defs/{model}"
    ) -> dict[str, Any]:
        """Return the JSON Schema of the data that is written, without None, which ends a path.

        ``references`` is the form of those to its definitions. Raises ``StageDefinitionError`` where a schema
        cannot express it.
        """
        try:
            schema = self._adapter.json_schema(
                mode="serialization", schema_generator=generator, ref_template=references
            )
        except PydanticUserError as error:
            raise StageDefinitionError(
                f"{self.where}: {describe(self.annotation)} has no JSON Schema "
                f"({str(error).splitlines()[0]}). Annotate a type that JSON has."
            ) from error
        members = [each for each in schema.pop("anyOf", []) if each != {"type": "null"}]
        return schema | (members[0] if len(members) == 1 else {"anyOf": members} if members else {})

    # ─── at run time ───

    def load(self, data: str | bytes) -> Any:
        """Return the value of JSON text; raise ``InvalidInputError`` where it is not of the annotation."""
        try:
            value = self._adapter.validate_json(data)
        except ValidationError as error:
            raise self._invalid(_reasons(error)) from error
        if unsafe := unsafe_numbers(data, value):
            raise self._invalid(unsafe)
        return iter(value) if self._is_iterator and value is not None else value

    def dump(self, value: Any) -> str:
        """Return the JSON text of a result; raise ``PermanentError`` where it is not of the annotation.

        The text is read again: a value that does not come back is refused here, and not in the next stage.
        """
        try:
            return self._text(value)
        except ValueError as error:
            raise PermanentError(
                f"{self.where}: the result is not {describe(self.annotation)}: {error}"
            ) from error

    def listed(self, value: Any) -> Any:
        """Return a value, an iterator where an Iterable is annotated as a list: it is read more than once."""
        return list(value) if self._is_stream and not isinstance(value, list | None) else value

    def dump_data(self, value: Any) -> str:
        """Return the JSON text of an event's data; ``InvalidInputError`` for a value of another type."""
        try:
            return self._text(value)
        except ValueError as error:
            raise self._invalid(str(error)) from error

    def _text(self, value: Any) -> str:
        """Return the JSON text of a value; raise ``ValueError`` with the reasons."""
        try:
            if value is None and not self.takes_none:
                raise ValueError("it returned None")
            value = self.listed(value)
            text = self._adapter.dump_json(value, by_alias=True, warnings="error")
            if wrong := self._changed(value, text):
                raise ValueError(wrong)
        except ValidationError as error:
            raise ValueError(non_finite(value) or _reasons(error)) from error
        except (PydanticSerializationError, ValueError, TypeError) as error:
            raise ValueError(str(error)[:500]) from error
        return text.decode()

    def _changed(self, value: Any, text: bytes) -> str | None:
        """How the JSON text of a value differs from it; None where it does not."""
        if not self._faults:
            return difference(value, self._adapter.validate_json(text), loose=self._is_loose)
        # It is never read by this annotation: another service has one of its own.
        if b"null" in text or b"NaN" in text or b"Infinity" in text:
            return non_finite(value)
        return None

    def _invalid(self, reasons: str) -> InvalidInputError:
        return InvalidInputError(f"{self.where}: the data is not {describe(self.annotation)}: {reasons}")

    # ─── the annotation ───

    @cached_property
    def _adapter(self) -> TypeAdapter[Any]:
        try:
            adapter: TypeAdapter[Any] = TypeAdapter(_eager(self.annotation))
            adapter.rebuild(raise_errors=True)
        except (PydanticUserError, NameError) as error:
            raise StageDefinitionError(
                f"{self.where}: {describe(self.annotation)} cannot be read from JSON "
                f"({str(error).splitlines()[0]}). Use a pydantic model, a dataclass, a TypedDict, or a type "
                "of the standard library."
            ) from error
        return adapter

    @cached_property
    def _shape(self) -> Shape:
        return Shape(self._adapter.core_schema)

    @cached_property
    def _faults(self) -> tuple[str, ...]:
        """Why the JSON that is written cannot be read again."""
        return self._shape.faults or self._differences

    @cached_property
    def _differences(self) -> tuple[str, ...]:
        """How sample values differ from those that are read again from their JSON."""
        found: dict[str, None] = {}
        for sample in samples(self.schema()):
            if different := self._try(sample):
                found[different] = None
        return tuple(found)

    def _try(self, sample: Any) -> str | None:
        """How a sample value changes; None also for a sample that is no value of the annotation."""
        try:
            value = self._adapter.validate_json(json.dumps(sample))
            text = self._adapter.dump_json(value, by_alias=True)
        except Exception:  # noqa: BLE001 - validators and serializers are the author's code
            return None
        try:
            again = self._adapter.validate_json(text)
        except ValidationError as error:
            if secret := hidden_secret(value):
                return secret
            return f"the JSON {text.decode()[:_SHOWN]} cannot be read: {_reasons(error)}"
        return difference(value, again, loose=self._is_loose)

    @cached_property
    def _is_loose(self) -> bool:
        """Whether the annotation holds Any, which reads what JSON has."""
        return "any" in self._shape.types

    @cached_property
    def _is_stream(self) -> bool:
        return bool(_unwrapped(self.annotation) != _unwrapped(_eager(self.annotation)))

    @cached_property
    def _is_iterator(self) -> bool:
        """Whether the function wants an iterator, not only something to iterate over."""
        return typing.get_origin(without_none(self.annotation)) in (Iterator, Generator)


def describe(annotation: Any) -> str:
    """Return an annotation about as it is written in code."""
    plain = isinstance(annotation, type) and not typing.get_args(annotation)
    return annotation.__qualname__ if plain else str(annotation)


def is_union(annotation: Any) -> bool:
    """Whether an annotation is a union."""
    return typing.get_origin(annotation) in (typing.Union, UnionType)


def without_none(annotation: Any) -> Any:
    """Return an annotation without None, Annotated, NewType and alias."""
    annotation = _unwrapped(annotation)
    if not is_union(annotation):
        return annotation
    members = [member for member in typing.get_args(annotation) if member not in (None, type(None))]
    return _unwrapped(members[0]) if len(members) == 1 else typing.Union[tuple(members)]  # noqa: UP007


def _unwrapped(annotation: Any) -> Any:
    """An annotation without Annotated, NewType and alias."""
    while True:
        if typing.get_origin(annotation) is typing.Annotated:
            annotation = typing.get_args(annotation)[0]
        elif hasattr(annotation, "__supertype__"):
            annotation = annotation.__supertype__
        elif type(annotation).__name__ == "TypeAliasType":
            annotation = annotation.__value__
        else:
            return annotation


def _eager(annotation: Any) -> Any:
    """Return an annotation with a list for each Iterable, so that all items are checked at once."""
    plain = _unwrapped(annotation)
    if plain is not annotation and typing.get_origin(annotation) is not typing.Annotated:
        eager = _eager(plain)
        return annotation if eager is plain else eager
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in STREAMS or annotation in STREAMS:
        return list[_eager(arguments[0])] if arguments else list[Any]  # type: ignore[misc]
    if origin is typing.Annotated:
        eager = _eager(arguments[0])
        return annotation if eager is arguments[0] else typing.Annotated[(eager, *annotation.__metadata__)]
    if origin is typing.Literal or not arguments:
        return annotation
    eagers = tuple(_eager(each) for each in arguments)
    if all(one is other for one, other in zip(eagers, arguments, strict=True)):
        return annotation
    return typing.Union[eagers] if is_union(annotation) else origin[eagers]  # noqa: UP007


def _reasons(error: ValidationError) -> str:
    """The first faults, short enough for a log line."""
    faults = [
        f"{'.'.join(map(str, e['loc'])) or 'the whole'}: {e['msg']}, it is {_shown(e['input'])}"
        for e in error.errors(include_url=False)[:3]
    ]
    more = error.error_count() - len(faults)
    return "; ".join(faults) + (f"; and {more} more" if more else "")


def _shown(value: Any) -> str:
    """A faulty value as it stands in the JSON, so that 1 and "1" differ; the beginning of a long one."""
    if isinstance(value, bytes):
        return repr(value[:_SHOWN])
    text = to_json(value, fallback=repr, inf_nan_mode="constants").decode()
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
