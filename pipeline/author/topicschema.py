"""The schema of what a stage writes to its topic, as a schema registry holds it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from pipeline.author.avroschema import AvroReady, Inexpressible, avro_type
from pipeline.author.codec import Codec, describe
from pipeline.errors import PermanentError, StageDefinitionError
from pipeline.wire import avro
from pipeline.wire.avro import AvroType, Misfit

#: How events are written on a topic. No Protobuf: the numbers of its fields must outlive the code, and an
#: annotation has none.
Format = Literal["json", "avro", "json-schema"]
FORMATS: Final[tuple[Format, ...]] = get_args(Format)

#: The dialect that every registry compares: Apicurio's 2.6 knows none that is newer.
_DIALECT: Final = "http://json-schema.org/draft-07/schema#"


@dataclass(frozen=True, kw_only=True, eq=False)
class TopicSchema:
    """The schema of a topic's values. Two of the same text are equal."""

    format: Format
    #: The schema, as JSON. The same annotation gives the same text.
    text: str
    #: What writes the values; None where they stay JSON.
    _kind: AvroType | None

    def __eq__(self, other: object) -> bool:
        """Whether values of both can be read by one schema."""
        return isinstance(other, TopicSchema) and (self.format, self.text) == (other.format, other.text)

    def __hash__(self) -> int:
        """Return the hash of what is compared."""
        return hash((self.format, self.text))

    @property
    def content_type(self) -> str:
        """The media type of the values, for the header ``content-type``."""
        return "application/avro" if self.format == "avro" else "application/json"

    def body(self, data: bytes) -> bytes:
        """Return JSON data as the format has it, the same bytes for the same data.

        Raises PermanentError where the data does not fit the schema.
        """
        if self._kind is None:
            return data
        try:
            return avro.encode(self._kind, data)
        except Misfit as error:
            raise PermanentError(f"the result does not fit its topic's Avro schema: {error}") from error


def topic_schema(written: Codec, form: Literal["avro", "json-schema"]) -> TopicSchema:
    """Return the schema of what a stage writes; raise ``StageDefinitionError`` for what it cannot express."""
    if form == "json-schema":
        return TopicSchema(format=form, text=_text(_draft_07(written)), _kind=None)
    try:
        kind = avro_type(written.written_schema(AvroReady))
    except Inexpressible as error:
        raise StageDefinitionError(
            f"{written.where}: {describe(written.annotation)} cannot be written as Avro: {error}. "
            'Or use format="json-schema".'
        ) from error
    return TopicSchema(format=form, text=_text(kind.schema(set())), _kind=kind)


def _draft_07(written: Codec) -> dict[str, Any]:
    """Return a JSON Schema in the older dialect: it has other words for definitions and for tuples.

    Its objects are closed: no other field is ever written, and only then does a registry's rule BACKWARD
    accept a new field.
    """
    schema = written.written_schema(references="#/definitions/{model}")
    definitions = schema.pop("$defs", None)
    schema |= {"definitions": definitions} if definitions else {}
    return {"$schema": _DIALECT, **_older(schema)}


def _older(node: Any) -> Any:
    if isinstance(node, Mapping):
        made = {key: _older(each) for key, each in node.items()}
        if node.get("type") == "object" and isinstance(node.get("properties"), Mapping):
            made.setdefault("additionalProperties", False)
        if isinstance(made.get("prefixItems"), list):
            made["additionalItems"] = made.pop("items", True)
            made["items"] = made.pop("prefixItems")
        return made
    return [_older(each) for each in node] if isinstance(node, list) else node


def _text(schema: object) -> str:
    return json.dumps(schema, separators=(",", ":"), ensure_ascii=False)
