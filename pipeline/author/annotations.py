"""A stage function's annotations as its schema: JSON is read and written by them."""

import inspect
import sys
import types
import typing
from collections.abc import Callable, Generator, Iterable, Iterator
from functools import cached_property
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError
from pydantic_core import PydanticSerializationError, to_json

from pipeline.errors import InvalidInputError, PermanentError, StageDefinitionError

_STREAMS = (Iterator, Iterable, Generator)

#: Characters of a faulty value that are shown.
_SHOWN = 80


class Codec:
    """Reads and writes JSON for one annotation of a function."""

    def __init__(self, annotation: Any, where: str) -> None:
        self.annotation = annotation
        self._where = where

    @cached_property
    def _adapter(self) -> TypeAdapter[Any]:
        try:
            adapter: TypeAdapter[Any] = TypeAdapter(self.annotation)
            adapter.rebuild(raise_errors=True)
        except (PydanticUserError, NameError) as error:
            raise StageDefinitionError(
                f"{self._where}: {describe(self.annotation)} cannot be read from JSON "
                f"({str(error).splitlines()[0]}). Use a pydantic model, a dataclass, a TypedDict, or a type "
                "of the standard library."
            ) from error
        return adapter

    def check(self) -> None:
        """Raise ``StageDefinitionError`` where the annotation is no type that JSON can hold."""
        _ = self._adapter

    @property
    def takes_none(self) -> bool:
        """Whether None is a value of the annotation."""
        members = typing.get_args(self.annotation) if _is_union(self.annotation) else (self.annotation,)
        return any(member in (None, types.NoneType, Any, object) for member in members)

    def schema(self) -> dict[str, Any]:
        """The JSON Schema of what it reads; {} for what a schema cannot tell."""
        try:
            return self._adapter.json_schema()
        except PydanticUserError:
            return {}

    def load(self, data: str | bytes) -> Any:
        """The value that JSON text stands for; ``InvalidInputError`` where it is not of the annotation."""
        try:
            return self._adapter.validate_json(data)
        except ValidationError as error:
            raise InvalidInputError(
                f"{self._where}: the data is not {describe(self.annotation)}: {_reasons(error)}"
            ) from error

    def dump(self, value: Any) -> str:
        """The JSON text of a value; ``PermanentError`` where it is not of the annotation."""
        try:
            if value is None and not self.takes_none:
                raise ValueError("it returned None")
            return self._adapter.dump_json(value, by_alias=True, warnings="error").decode()
        except (PydanticSerializationError, ValueError) as error:
            raise PermanentError(
                f"{self._where}: the result is not {describe(self.annotation)}: {str(error)[:500]}"
            ) from error


class Signature:
    """One function of a stage: checked when it is decorated, its annotations resolved when first needed.

    An annotation may name a class that the module defines further down, so a name that is not known yet
    is no error before ``check``.
    """

    def __init__(self, function: Callable[..., Any], parameters: int, decorator: str) -> None:
        """``parameters`` is the number that the function must take; ``decorator`` names it in errors."""
        self.function = function
        self.where = f"{decorator} function {location(function)}"
        self.parameter_names = self._checked(function, parameters)

    def parameter(self, index: int) -> Codec:
        """The codec of a parameter."""
        return self._codecs[self.parameter_names[index]]

    @property
    def returned(self) -> Codec:
        """The codec of the return annotation."""
        return self._codecs["return"]

    def returned_item(self) -> Codec:
        """The codec of the items of the iterator that the function returns."""
        return self._item("return", "its return annotation", "Iterator[T]")

    def parameter_item(self, index: int) -> Codec:
        """The codec of the items of a parameter that is handed over as a stream."""
        name = self.parameter_names[index]
        return self._item(name, f"the annotation of {name!r}", "Iterable[T]")

    def check(self) -> None:
        """Resolve all annotations; raise ``StageDefinitionError`` where one is missing or unknown."""
        _ = self._codecs

    @cached_property
    def _codecs(self) -> dict[str, Codec]:
        try:
            hints = typing.get_type_hints(self.function, include_extras=True)
        except NameError as error:
            raise StageDefinitionError(
                f"{self.where}: its annotations name {error.name!r}, which its module does not define. "
                "Define it at the module's top level, or import it outside TYPE_CHECKING."
            ) from error
        except (TypeError, SyntaxError, AttributeError) as error:
            raise StageDefinitionError(
                f"{self.where}: an annotation cannot be read: {error}. Write a type."
            ) from error
        return {name: Codec(hint, self.where) for name, hint in hints.items()}

    def _item(self, name: str, what: str, wanted: str) -> Codec:
        annotation = self._codecs[name].annotation
        arguments = typing.get_args(annotation)
        if typing.get_origin(annotation) not in _STREAMS or not arguments:
            raise StageDefinitionError(
                f"{self.where}: {what} is {describe(annotation)}. Annotate {wanted} from collections.abc: "
                "the items are streamed, never all in memory."
            )
        return Codec(arguments[0], self.where)

    def _checked(self, function: Callable[..., Any], wanted: int) -> tuple[str, ...]:
        if not inspect.isfunction(function):
            raise StageDefinitionError(
                f"{self.where}: it is no function. Decorate a def at a module's top level."
            )
        if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
            raise StageDefinitionError(f"{self.where}: it is async. Use a plain def; the worker runs many.")
        signature = _signature(function)
        parameters = list(signature.parameters.values())
        needed = [p for p in parameters if p.default is p.empty]
        positional = all(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in needed)
        if len(needed) != wanted or not positional:
            raise StageDefinitionError(
                f"{self.where}: it must take {wanted} parameter{'s' * (wanted > 1)}, and any other with a "
                f"default; it is {function.__name__}{signature}."
            )
        annotations = [(f"its parameter {p.name!r}", p.annotation) for p in needed]
        for what, annotation in [*annotations, ("its return value", signature.return_annotation)]:
            if annotation is signature.empty:
                raise StageDefinitionError(
                    f"{self.where}: {what} has no annotation. Add one: it is the schema."
                )
        return tuple(p.name for p in needed)


def fits(given: Any, wanted: Any) -> bool:
    """Whether a value annotated ``given`` may be passed where ``wanted`` is annotated."""
    if given == wanted or wanted in (Any, object):
        return True
    if _is_union(wanted):
        return any(fits(given, member) for member in typing.get_args(wanted))
    return isinstance(given, type) and isinstance(wanted, type) and issubclass(given, wanted)


def describe(annotation: Any) -> str:
    """An annotation about as it is written in code."""
    plain = isinstance(annotation, type) and not typing.get_args(annotation)
    return annotation.__qualname__ if plain else str(annotation)


def location(function: Any) -> str:
    """``name (module:line)`` of a function, for messages."""
    plain = inspect.unwrap(function)
    line = plain.__code__.co_firstlineno if inspect.isfunction(plain) else "?"
    module = getattr(plain, "__module__", "?")
    return f"{getattr(plain, '__qualname__', repr(plain))} ({module}:{line})"


if sys.version_info >= (3, 14):
    from annotationlib import Format

    def _signature(function: Callable[..., Any]) -> inspect.Signature:
        """The signature; an annotation may name what is not defined yet, which 3.14 would evaluate."""
        return inspect.signature(function, annotation_format=Format.FORWARDREF)
else:

    def _signature(function: Callable[..., Any]) -> inspect.Signature:
        return inspect.signature(function)


def _is_union(annotation: Any) -> bool:
    return typing.get_origin(annotation) in (typing.Union, types.UnionType)


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
