"""The signature of a stage's function: its parameters and its annotations, which are the schema."""

import dataclasses
import inspect
import sys
import typing
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable
from functools import cached_property
from typing import Any, Final

from pydantic import BaseModel

from pipeline.author.awaiting import is_async
from pipeline.author.codec import STREAMS, Codec, describe, is_union
from pipeline.errors import StageDefinitionError

#: Annotations of streams in async functions: read on the event loop, a plain one would stop it.
ASYNC_STREAMS: Final = (AsyncIterator, AsyncIterable, AsyncGenerator)


class Signature:
    """One function of a stage: checked when it is decorated, its annotations resolved when first needed.

    An annotation may name a class that the module defines further down, so a name that is not known yet
    is no error before ``check``.
    """

    def __init__(self, function: Callable[..., Any], parameters: int, decorator: str) -> None:
        """``parameters`` is the number that the function must take; ``decorator`` names it in errors."""
        self.function = function
        self.where = f"{decorator} function {location(function)}"
        self.parameter_names = self._required(function, parameters)

    def parameter(self, index: int) -> Codec:
        """Return the codec of a parameter."""
        return self._codecs[self.parameter_names[index]]

    @property
    def returned(self) -> Codec:
        """The codec of the return annotation."""
        return self._codecs["return"]

    def returned_item(self) -> Codec:
        """Return the codec of the items of the iterator that the function returns."""
        if inspect.isasyncgenfunction(self.function):
            return self._item("return", "its return annotation", "AsyncIterator[T]", ASYNC_STREAMS)
        return self._item("return", "its return annotation", "Iterator[T]", STREAMS)

    def parameter_item(self, index: int) -> Codec:
        """Return the codec of the items of a parameter that is passed as a stream."""
        name = self.parameter_names[index]
        if is_async(self.function):
            return self._item(name, f"the annotation of {name!r}", "AsyncIterable[T]", ASYNC_STREAMS)
        return self._item(name, f"the annotation of {name!r}", "Iterable[T]", STREAMS)

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

    def _item(self, name: str, place: str, wanted: str, streams: tuple[Any, ...]) -> Codec:
        annotation = self._codecs[name].annotation
        arguments = typing.get_args(annotation)
        if typing.get_origin(annotation) not in streams or not arguments:
            raise StageDefinitionError(
                f"{self.where}: {place} is {describe(annotation)}. Annotate {wanted} from collections.abc: "
                "the items are streamed, never all in memory."
            )
        return Codec(arguments[0], self.where)

    def _required(self, function: Callable[..., Any], wanted: int) -> tuple[str, ...]:
        """Return the names of the required parameters; refuse a function that cannot be one of a stage."""
        if not inspect.isfunction(function):
            raise StageDefinitionError(
                f"{self.where}: it is no function. Decorate a def at a module's top level."
            )
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
        for place, annotation in [*annotations, ("its return value", signature.return_annotation)]:
            if annotation is signature.empty:
                raise StageDefinitionError(
                    f"{self.where}: {place} has no annotation. Add one: it is the schema."
                )
        return tuple(p.name for p in needed)


def fits(given: Any, wanted: Any) -> bool:
    """Whether a value annotated ``given`` may be passed where ``wanted`` is annotated."""
    if given == wanted or wanted in (Any, object):
        return True
    if is_union(wanted):
        return any(fits(given, member) for member in typing.get_args(wanted))
    return isinstance(given, type) and isinstance(wanted, type) and issubclass(given, wanted)


def lost_fields(given: Any, wanted: Any) -> list[str]:
    """Return the fields of ``given`` that are lost where it is written as ``wanted``, a base of it."""
    if given == wanted or not (isinstance(given, type) and isinstance(wanted, type)):
        return []
    names = _field_names(wanted)
    return [name for name in _field_names(given) if name not in names] if issubclass(given, wanted) else []


def _field_names(annotation: type) -> list[str]:
    if issubclass(annotation, BaseModel):
        return list(annotation.model_fields)
    if dataclasses.is_dataclass(annotation):
        return [field.name for field in dataclasses.fields(annotation)]
    return []


def location(function: Any) -> str:
    """Return ``name (module:line)`` of a function, for messages."""
    plain = inspect.unwrap(function)
    line = plain.__code__.co_firstlineno if inspect.isfunction(plain) else "?"
    module = getattr(plain, "__module__", "?")
    return f"{getattr(plain, '__qualname__', repr(plain))} ({module}:{line})"


if sys.version_info >= (3, 14):
    from annotationlib import Format

    def _signature(function: Callable[..., Any]) -> inspect.Signature:
        """Return the signature with annotations unevaluated: they may name a class defined later."""
        return inspect.signature(function, annotation_format=Format.FORWARDREF)
else:

    def _signature(function: Callable[..., Any]) -> inspect.Signature:
        return inspect.signature(function)
