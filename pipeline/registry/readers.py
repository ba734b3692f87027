"""Readers of framed keys and values as JSON, one for each schema.

The result is a function of the bytes and the schema alone, so that a replay makes the same events.
"""

from collections.abc import Callable

from pydantic_core import from_json

from pipeline.errors import InvalidEventError
from pipeline.registry.avro import avro_reader
from pipeline.registry.client import Schema, SchemaKind
from pipeline.registry.frames import HEAD
from pipeline.registry.protobuf import protobuf_reader


def _json_reader(_: Schema) -> Callable[[bytes], bytes]:
    # Not validated: stages and consumers have annotations, and a schema's patterns may take for ever.
    def as_json(content: bytes) -> bytes:
        from_json(content, allow_inf_nan=False)
        return content

    return as_json


_READERS: dict[SchemaKind, Callable[[Schema], Callable[[bytes], bytes]]] = {
    "AVRO": avro_reader,
    "JSON": _json_reader,
    "PROTOBUF": protobuf_reader,
}


class Reader:
    """Reads what one schema describes. Threads share it."""

    def __init__(self, schema_id: int, schema: Schema) -> None:
        """Raises InvalidEventError for a schema that cannot be read, or would be dangerous to read."""
        self._name = f"schema {schema_id} ({schema.kind})"
        try:
            self._read = _READERS[schema.kind](schema)
        except InvalidEventError as error:
            raise InvalidEventError(f"{self._name} cannot be used: {error}") from error
        except Exception as error:
            raise InvalidEventError(
                f"{self._name} cannot be used: {type(error).__name__}: {error}"
            ) from error

    def read(self, data: bytes) -> bytes:
        """Return the content of a framed key or value as JSON; raises InvalidEventError."""
        try:
            return self._read(data[HEAD:])
        except Exception as error:
            why = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            raise InvalidEventError(f"it does not fit {self._name}: {why[:500]}") from error
