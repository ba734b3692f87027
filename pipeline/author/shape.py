"""The structure of an annotation, from pydantic's core schema: its fields, their keys, its faults in JSON."""

from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

Node = Mapping[str, Any]

#: Keys of a node under which the schemas of its values are.
_CHILDREN: Final = (
    "schema",
    "items_schema",
    "keys_schema",
    "values_schema",
    "choices",
    "steps",
    "arguments_schema",
    "json_schema",
    "lax_schema",
    "definitions",
    "fields",
    "extras_schema",
)
_RECORDS: Final = ("model-fields", "typed-dict", "dataclass-args")
#: Python's own objects, which no JSON stands for.
_UNREADABLE: Final = ("callable", "is-instance", "is-subclass")
#: Nodes that add something to the schema inside them.
_WRAPPERS: Final = (
    "nullable",
    "default",
    "function-after",
    "custom-error",
    "definitions",
    "model",
    "dataclass",
    "json-or-python",
    "lax-or-strict",
)
_OBJECTS: Final = (*_RECORDS, "dict")
_ARRAYS: Final = ("list", "tuple", "named-tuple", "set", "frozenset", "generator")
_SCALARS: Final = (
    *("bool", "int", "float", "decimal", "str", "bytes", "uuid", "url", "enum", "literal"),
    *("date", "datetime", "time", "timedelta"),
)
#: Of these JSON makes a text as the key of an object, which it does not read again.
_NO_KEYS: Final = (*_RECORDS, "model", "dataclass", "call", *_ARRAYS, "dict")


@dataclass(frozen=True, kw_only=True)
class Field:
    """One field of a model, a dataclass or a TypedDict."""

    name: str
    required: bool
    #: Its key in JSON; None where it is not written.
    written: str | None
    #: The keys that it is read from.
    read: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Record:
    """A model, a dataclass or a TypedDict."""

    name: str
    fields: tuple[Field, ...]
    #: Name and key of each computed field.
    computed: Mapping[str, str]
    #: What it does with other keys: "ignore", "forbid" or "allow".
    extra: str

    @property
    def written(self) -> set[str]:
        """All keys that it writes."""
        return {field.written for field in self.fields if field.written} | set(self.computed.values())

    @property
    def read(self) -> set[str]:
        """All keys that it reads."""
        return {key for field in self.fields for key in field.read}


class Shape:
    """The structure of one annotation."""

    def __init__(self, schema: Any) -> None:
        self._schema: Node = schema
        definitions = schema.get("definitions", ()) if schema["type"] == "definitions" else ()
        self._definitions: dict[str, Node] = {each["ref"]: each for each in definitions}

    @cached_property
    def takes_none(self) -> bool:
        """Whether None is a value of the annotation."""
        return self._takes_none(self._schema)

    @cached_property
    def types(self) -> frozenset[str]:
        """The types of all nodes."""
        return frozenset(node["type"] for _, node, _ in self._walk(self._schema, "", {}))

    @cached_property
    def lazy(self) -> tuple[str, ...]:
        """The places of iterables that pydantic validates only as they are read."""
        return tuple(
            path for path, node, _ in self._walk(self._schema, "", {}) if node["type"] == "generator"
        )

    @cached_property
    def faults(self) -> tuple[str, ...]:
        """Each reason why the JSON that is written cannot be read again: field, reason and remedy."""
        return tuple(
            fault
            for path, node, config in self._walk(self._schema, "", {})
            for fault in self._faults(path, node, config)
        )

    def misfit(self, reader: "Shape") -> str | None:
        """Return why ``reader`` cannot read what this one writes; None where no reason is known."""
        gives, takes = self._kind(self._schema, written=True), reader._kind(reader._schema, written=False)
        if gives and takes and gives != takes:
            return f"it writes JSON {gives}, which is read as {takes}"
        writes, reads = self._record(self._schema), reader._record(reader._schema)
        if writes is None or reads is None or "object" not in (gives, takes) or gives != takes:
            return None
        if writes.extra != "allow":
            for field in reads.fields:
                if field.required and not field.read & writes.written:
                    return f"{reads.name}.{field.name} is required, and {writes.name} does not write it"
        if reads.extra == "forbid" and (unknown := sorted(writes.written - reads.read)):
            return f"{reads.name} forbids other fields, and {writes.name} writes {', '.join(unknown)}"
        return None

    def _walk(self, node: Node, path: str, config: Node) -> Iterator[tuple[str, Node, Node]]:
        """Yield each node that pydantic itself reads and writes, with its place and configuration."""
        config = node.get("config") or config
        yield path, node, config
        if _is_custom(node) or node["type"] == "is-instance":
            return
        owner = _record_name(node)
        for key in _CHILDREN:
            for name, child in _children(node.get(key)):
                inner = f"{owner}.{name}" if key == "fields" and owner and name else path
                if key == "fields" and "schema" in child:
                    if not _is_custom(child):
                        yield from self._walk(child["schema"], inner, config)
                elif "type" in child:
                    yield from self._walk(child, inner, config)
                elif "schema" in child:  # an argument of a NamedTuple
                    yield from self._walk(child["schema"], path, config)

    def _faults(self, path: str, node: Node, config: Node) -> Iterator[str]:
        place = path or "the value"
        if node["type"] in _RECORDS:
            yield from _record_faults(_record(node, config))
        elif _is_custom(node):
            return
        elif node["type"] == "json":
            yield (
                f"{place} is Json: it is written as the value and read as a text that holds JSON. Annotate "
                "the type that is inside"
            )
        elif node["type"] in _UNREADABLE and node.get("cls") is not Hashable:
            yield f"{place} is an object of Python that JSON cannot hold. Hand on a name or an id"
        elif node["type"] == "dict" and (keys := self._key_type(node)):
            yield (
                f"{place} has keys of the type {keys}, which JSON writes as a text and cannot read again. "
                "Use keys that are a text or a number, or a list of pairs"
            )

    def _key_type(self, node: Node) -> str | None:
        """The type of the keys of a dict, where JSON cannot read them again."""
        keys: Node | None = node.get("keys_schema")
        while keys is not None:
            if keys["type"] in _NO_KEYS:
                return str(keys["type"])
            keys = self._inner(keys)
        return None

    def _inner(self, node: Node) -> Node | None:
        """The schema inside a wrapper; None for any other node."""
        if node["type"] == "definition-ref":
            return self._definitions.get(node["schema_ref"])
        if node["type"] not in _WRAPPERS:
            return None
        inner: Node | None = node.get("schema") or node.get("json_schema") or node.get("lax_schema")
        return inner

    def _takes_none(self, node: Node) -> bool:
        kind = node["type"]
        if kind in ("none", "any", "nullable"):
            return True
        if kind == "literal":
            return None in node["expected"]
        if kind == "union":
            return any(self._takes_none(choice) for _, choice in _children(node["choices"]))
        if kind in ("function-before", "function-wrap"):
            return self._takes_none(node["schema"])
        if kind in ("model", "dataclass"):
            return False
        inner = self._inner(node)
        return inner is not None and self._takes_none(inner)

    def _kind(self, node: Node, *, written: bool) -> str | None:
        """ "object", "array" or "a scalar" of JSON; None where that is not known."""
        if written and _is_custom(node):
            return None
        kind = node["type"]
        if kind in _OBJECTS:
            return "object"
        if kind in _ARRAYS:
            return "array"
        if kind in _SCALARS:
            return "a scalar"
        inner = self._inner(node)
        return None if inner is None else self._kind(inner, written=written)

    def _record(self, node: Node) -> Record | None:
        """The one model, dataclass or TypedDict of the annotation."""
        config: Node = {}
        while node["type"] not in _RECORDS:
            config = node.get("config") or config
            inner = self._inner(node)
            if inner is None:
                return None
            node = inner
        return _record(node, node.get("config") or config)


def _children(value: Any) -> Iterable[tuple[str, Node]]:
    """The schemas under a key of a node, with the name of each one that has one."""
    if isinstance(value, Mapping):
        if "type" in value and isinstance(value["type"], str):
            return [("", value)]
        return [(str(name), child) for name, child in value.items() if isinstance(child, Mapping)]
    if isinstance(value, list):
        nodes = (each[0] if isinstance(each, tuple) else each for each in value)
        return [(str(node.get("name", "")), node) for node in nodes if isinstance(node, Mapping)]
    return ()


def _is_custom(node: Node) -> bool:
    """Whether a function of the author, or of a type, writes the node."""
    return str((node.get("serialization") or {}).get("type", "")).startswith("function")


def _record_name(node: Node) -> str:
    name = node.get("model_name") or node.get("dataclass_name") or node.get("cls_name")
    if name is None and node["type"] == "typed-dict":
        name = getattr(node.get("cls"), "__name__", "TypedDict")
    return str(name or "")


def _record(node: Node, config: Node) -> Record:
    typed_dict = node["type"] == "typed-dict"
    extra = node.get("extra_behavior") or config.get("extra_fields_behavior") or "ignore"
    return Record(
        name=_record_name(node),
        fields=tuple(
            _field(name, field, config, typed_dict, node) for name, field in _children(node["fields"])
        ),
        computed={
            each["property_name"]: each.get("alias", each["property_name"])
            for each in node.get("computed_fields") or ()
        },
        extra=extra,
    )


def _field(name: str, field: Node, config: Node, typed_dict: bool, record: Node) -> Field:
    alias: Any = field.get("validation_alias")
    paths: list[Any]
    paths = [[alias]] if isinstance(alias, str) else [alias] if _is_path(alias) else alias or []
    by_alias = config.get("validate_by_alias", True)
    read = {path[0] for path in paths if len(path) == 1} if by_alias else set()
    if alias is None or config.get("validate_by_name") or config.get("populate_by_name"):
        read.add(name)
    required = field.get("required", record.get("total", True)) if typed_dict else True
    skipped = field.get("serialization_exclude") or field.get("init_only")
    return Field(
        name=name,
        required=bool(required) and not _has_default(field["schema"]) and field.get("init", True),
        written=None if skipped else field.get("serialization_alias") or name,
        read=frozenset(map(str, read)),
    )


def _is_path(alias: Any) -> bool:
    """Whether an alias is one path, not a list of paths."""
    return isinstance(alias, list) and bool(alias) and isinstance(alias[0], str)


def _has_default(schema: Node) -> bool:
    if schema["type"] == "default":
        return True
    inner = schema.get("schema")
    is_wrapper = schema["type"].startswith("function-") or schema["type"] == "nullable"
    return is_wrapper and isinstance(inner, Mapping) and _has_default(inner)


def _record_faults(record: Record) -> Iterator[str]:
    for field in record.fields:
        place = f"{record.name}.{field.name}"
        if field.written is None:
            if field.required:
                yield f"{place} is required and excluded, so it is never written. Give it a default"
        elif field.written not in field.read:
            reads = ", ".join(sorted(field.read)) or "a path"
            yield (
                f"{place} is written as {field.written!r} and read as {reads!r}. Give it alias= for both, or "
                f"validation_alias=AliasChoices({reads!r}, {field.written!r})"
            )
    for name, key in record.computed.items():
        if record.extra == "forbid" and key not in record.read:
            yield (
                f"{record.name}.{name} is computed and written, and extra='forbid' refuses it when it is "
                "read. Make it a plain property, or use extra='ignore'"
            )
