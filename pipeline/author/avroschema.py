"""The Avro type of an annotation, made from the JSON Schema of the data that it is written as."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from pipeline.wire import avro
from pipeline.wire.avro import AvroType

#: Keys that ``AvroReady`` adds to a JSON Schema: what Avro needs to know and a JSON Schema does not say.
_DECIMAL: Final = "x-decimal"
_NAIVE: Final = "x-naive"
_MAY_LACK: Final = "x-may-lack"

_PRIMITIVES: Final[Mapping[str, AvroType]] = {
    "string": avro.STRING,
    "integer": avro.LONG,
    "number": avro.DOUBLE,
    "boolean": avro.BOOLEAN,
    "null": avro.NULL,
}
_FORMATS: Final[Mapping[str, AvroType]] = {
    "uuid": avro.UUID_TEXT,
    "date": avro.DATE,
    "time": avro.TIME,
    "base64": avro.BYTES,
    "base64url": avro.BYTES,
}


class Inexpressible(ValueError):  # noqa: N818 - a finding, which becomes a StageDefinitionError
    """A type that Avro does not have; the message names the field and the mend."""


class AvroReady(GenerateJsonSchema):
    """A JSON Schema that also says how precise decimals are, and which times are naive."""

    def decimal_schema(self, schema: core_schema.DecimalSchema) -> JsonSchemaValue:
        """Add the number of digits."""
        digits = [schema.get("max_digits"), schema.get("decimal_places")]
        return {**super().decimal_schema(schema), _DECIMAL: digits}

    def datetime_schema(self, schema: core_schema.DatetimeSchema) -> JsonSchemaValue:
        """Add whether times have no zone."""
        return {**super().datetime_schema(schema), _NAIVE: schema.get("tz_constraint") == "naive"}

    def typed_dict_schema(self, schema: core_schema.TypedDictSchema) -> JsonSchemaValue:
        """Add the keys that a dict may lack; those of models are always written."""
        total = schema.get("total", True)
        lacking = [name for name, each in schema["fields"].items() if not each.get("required", total)]
        made = super().typed_dict_schema(schema)
        return {**made, _MAY_LACK: lacking} if lacking else made


def avro_type(schema: Mapping[str, Any]) -> AvroType:
    """Return the Avro type of data with a JSON Schema, made by ``AvroReady`` for what is written.

    Raises ``Inexpressible`` where Avro has no type for it.
    """
    return _Builder(schema.get("$defs", {})).build(schema, "")


class _Builder:
    """Builds the types of one schema, each named one once."""

    def __init__(self, definitions: Mapping[str, Any]) -> None:
        self._definitions = definitions
        self._named: dict[str, AvroType] = {}

    def build(self, schema: Any, path: str, name: str | None = None) -> AvroType:
        """Return the type of a schema. ``path``: the field; ``name``: its definition's, if it has one."""
        if not isinstance(schema, Mapping):
            raise _no(path, "takes any value", "Annotate the type that it has")
        if "$ref" in schema:
            return self._reference(schema["$ref"].rsplit("/", 1)[1], path)
        if "enum" in schema or "const" in schema:
            values = schema["enum"] if "enum" in schema else [schema["const"]]
            return _enum(values, path, name, schema.get("description", ""))
        for key in ("anyOf", "oneOf", "allOf"):
            if key in schema:
                return self._union([self.build(each, path) for each in schema[key]], path)
        kind = schema.get("type", "any")
        if kind == "object":
            return self._object(schema, path, name)
        if kind == "array":
            return self._array(schema, path)
        if kind in _PRIMITIVES:
            return _primitive(schema, kind, path)
        raise _no(path, "takes any value", "Annotate the type that it has")

    def _reference(self, name: str, path: str) -> AvroType:
        if name not in self._named:
            self._named[name] = self.build(self._definitions[name], path, name)
        return self._named[name]

    def _object(self, schema: Mapping[str, Any], path: str, name: str | None) -> AvroType:
        properties, other = schema.get("properties", {}), schema.get("additionalProperties", False)
        if not properties and name is None and isinstance(other, Mapping):
            return avro.Map(self.build(other, _inside(path, "*")))
        if other or schema.get("patternProperties"):
            raise _no(
                path, "may have any key", "Annotate the type of its values, or list its fields in a model"
            )
        title = name or re.sub(r"\W", "_", str(schema.get("title", "Value")))
        record = avro.Record(_checked(title, path, "class"), schema.get("description", ""))
        # Before its fields are built: one of them may contain it.
        self._named[title] = record
        lacking = schema.get(_MAY_LACK, ())
        record.fields = tuple(
            self._field(key, each, _inside(path, key), may_lack=key in lacking)
            for key, each in properties.items()
        )
        return record

    def _field(self, name: str, schema: Any, path: str, *, may_lack: bool) -> avro.RecordField:
        if may_lack:
            raise _no(path, "is NotRequired, and a record of Avro lacks no field", "Annotate … | None")
        kind = self.build(schema, path)
        default: tuple[Any, ...] = (schema["default"],) if "default" in schema else ()
        if default and isinstance(kind, avro.Union):
            # A default is one of the union's first branch.
            kind = avro.Union(tuple(sorted(kind.branches, key=lambda each: not _holds(each, default[0]))))
        if default and not _holds(kind, default[0]):
            default = ()
        doc = schema.get("description", "") if "$ref" not in schema or len(schema) > 1 else ""
        return avro.RecordField(_checked(name, path, "field"), kind, doc, default)

    def _array(self, schema: Mapping[str, Any], path: str) -> AvroType:
        items = [*schema.get("prefixItems", ())]
        if isinstance(schema.get("items"), Mapping) or not items:
            items.append(schema.get("items"))
        kinds = [self.build(each, _inside(path, "*")) for each in items]
        if any(kind.schema(set()) != kinds[0].schema(set()) for kind in kinds):
            raise _no(path, "is a tuple of different types", "Use a model with a field for each")
        return avro.Array(kinds[0])

    def _union(self, kinds: Sequence[AvroType], path: str) -> AvroType:
        branches = tuple(avro.flattened(kinds))
        if len(branches) == 1:
            return branches[0]
        forms = [avro.wire_type(each) for each in branches]
        if twice := next((form for form in forms if forms.count(form) > 1), None):
            raise _no(path, f"is a union with two types that Avro writes as {twice}", "Keep one of them")
        return avro.Union(branches)


def _primitive(schema: Mapping[str, Any], kind: str, path: str) -> AvroType:
    if kind != "string":
        return _PRIMITIVES[kind]
    if _DECIMAL in schema:
        precision, scale = schema[_DECIMAL]
        if precision is None or scale is None:
            raise _no(
                path,
                "is a Decimal of any precision",
                "Annotate Annotated[Decimal, Field(max_digits=12, decimal_places=2)]",
            )
        return avro.decimal(precision, scale)
    if schema.get("format") == "date-time":
        return avro.LOCAL_TIMESTAMP if schema.get(_NAIVE) else avro.TIMESTAMP
    if schema.get("format") == "binary":
        raise _no(
            path,
            "is bytes, which JSON holds as a text",
            "Annotate str, or pydantic's Base64Bytes, or set ser_json_bytes and val_json_bytes to 'base64' "
            "in its model's configuration",
        )
    return _FORMATS.get(schema.get("format", ""), avro.STRING)


def _enum(values: Sequence[Any], path: str, name: str | None, doc: str) -> AvroType:
    if all(isinstance(each, str) for each in values):
        if name and all(avro.NAME.fullmatch(each) for each in values):
            return avro.Enum(_checked(name, path, "class"), tuple(values), doc)
        return avro.Primitive(avro.STRING.form, avro.STRING.append, tuple(values))
    if all(isinstance(each, int) and not isinstance(each, bool) for each in values):
        return avro.Primitive(avro.LONG.form, avro.LONG.append, tuple(values))
    if values == [None]:
        return avro.NULL
    raise _no(path, f"is one of {', '.join(map(repr, values))}", "Use texts only, or whole numbers only")


def _holds(kind: AvroType, default: Any) -> bool:
    """Whether a schema can give ``default`` as JSON for a field of a type.

    Those of logical types would be numbers or bytes; a field without a default is only harder to add.
    """
    if isinstance(kind, avro.Union):
        return _holds(kind.branches[0], default)
    if isinstance(kind, avro.Array):
        return isinstance(default, list) and all(_holds(kind.items, each) for each in default)
    if isinstance(kind, avro.Map):
        return isinstance(default, dict) and all(_holds(kind.values, each) for each in default.values())
    if isinstance(kind, avro.Primitive) and (kind is avro.BYTES or not isinstance(kind.form, str)):
        return False
    if isinstance(kind, avro.Record):
        return (
            isinstance(default, dict)
            and default.keys() == {each.name for each in kind.fields}
            and all(_holds(each.kind, default[each.name]) for each in kind.fields)
        )
    try:
        kind.write(default, bytearray(), "")
    except avro.Misfit:
        return False
    return True


def _checked(name: str, path: str, what: str) -> str:
    if not avro.NAME.fullmatch(name):
        raise _no(path, f"has the {what} name {name!r}", "Use letters, digits and _ for Avro")
    return name


def _inside(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _no(path: str, why: str, mend: str) -> Inexpressible:
    return Inexpressible(f"{path or 'the result'} {why}. {mend}")
