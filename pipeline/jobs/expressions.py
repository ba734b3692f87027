"""DynamoDB's wire format: attribute values, the expressions of conditional updates, and statements.

boto3's TypeSerializer converts values through Decimal and costs several times more CPU in the hot path.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

#: An item as the rest of this package sees it.
Item = dict[str, Any]


def dump(value: Any) -> dict[str, Any]:
    """Return the attribute value of a str, bool, number, bytes, mapping, sequence, or set of str or int."""
    match value:
        case str():
            return {"S": value}
        case bool():
            return {"BOOL": value}
        case int() | float():
            return {"N": repr(value)}
        case bytes():
            return {"B": value}
        case set() | frozenset():
            if isinstance(next(iter(value)), int):
                return {"NS": [str(number) for number in sorted(value)]}
            return {"SS": sorted(value)}
        case list() | tuple():
            return {"L": [dump(each) for each in value]}
        # Last: to ask whether something is a Mapping costs as much as all the others.
        case Mapping():
            return {"M": {key: dump(each) for key, each in value.items()}}
    raise TypeError(f"{type(value).__name__} cannot be stored in DynamoDB")


def load(value: Mapping[str, Any]) -> Any:
    """Return the Python value of an attribute value. Numbers are int where they can be."""
    ((kind, content),) = value.items()
    match kind:
        case "N":
            return _number(content)
        case "SS":
            return frozenset(content)
        case "NS":
            return frozenset(_number(each) for each in content)
        case "M":
            return {key: load(each) for key, each in content.items()}
        case "L":
            return [load(each) for each in content]
        case "NULL":
            return None
    return content


def dump_item(item: Item) -> dict[str, Any]:
    """Convert an item for the wire; drop attributes that are None."""
    return {name: dump(value) for name, value in item.items() if value is not None}


def load_item(item: Mapping[str, Any]) -> Item:
    """Convert an item from the wire."""
    return {name: load(value) for name, value in item.items()}


def _number(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        return float(text)


class Expression:
    """The names and values of one request, given placeholders as they are used."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}
        self.values: dict[str, Any] = {}

    def name(self, attribute: str) -> str:
        """Return the placeholder of an attribute's name: many plain words are reserved in expressions."""
        placeholder = f"#{len(self.names)}"
        self.names[placeholder] = attribute
        return placeholder

    def value(self, value: Any) -> str:
        """Return the placeholder of a value."""
        placeholder = f":{len(self.values)}"
        self.values[placeholder] = dump(value)
        return placeholder

    def update(self, put: Mapping[str, Any], add: Mapping[str, Any], remove: Iterable[str]) -> str:
        """Return SET, ADD and REMOVE in one update expression."""
        clauses = {
            "SET": [f"{self.name(name)} = {self.value(value)}" for name, value in put.items()],
            "ADD": [f"{self.name(name)} {self.value(value)}" for name, value in add.items()],
            "REMOVE": [self.name(name) for name in remove],
        }
        return " ".join(f"{verb} {', '.join(parts)}" for verb, parts in clauses.items() if parts)

    def fields(self) -> dict[str, Any]:
        """Return the fields of the request that define the placeholders."""
        values = {"ExpressionAttributeValues": self.values} if self.values else {}
        return {"ExpressionAttributeNames": self.names, **values}


#: A condition writes itself with the placeholders of the request it is part of.
Condition = Callable[[Expression], str]


def missing(attribute: str) -> Condition:
    """Require that the item has no such attribute, or does not exist."""
    return lambda request: f"attribute_not_exists({request.name(attribute)})"


def present(attribute: str) -> Condition:
    """Require that the item exists and has the attribute."""
    return lambda request: f"attribute_exists({request.name(attribute)})"


def equals(attribute: str, value: Any) -> Condition:
    """Require that the attribute has this value."""
    return lambda request: f"{request.name(attribute)} = {request.value(value)}"


def below(attribute: str, value: float) -> Condition:
    """Require that the attribute is missing, or less."""
    return lambda request: (
        f"(attribute_not_exists({request.name(attribute)}) "
        f"OR {request.name(attribute)} < {request.value(value)})"
    )


def outside(attribute: str, low: float, high: float) -> Condition:
    """Require that the attribute is missing, or less than ``low``, or more than ``high``."""
    return lambda request: (
        f"(attribute_not_exists({request.name(attribute)}) "
        f"OR {request.name(attribute)} < {request.value(low)} "
        f"OR {request.name(attribute)} > {request.value(high)})"
    )


def has_size(attribute: str, size: int) -> Condition:
    """Require that the set has so many elements; a missing set has none."""
    if size == 0:
        return missing(attribute)
    return lambda request: f"size({request.name(attribute)}) = {request.value(size)}"


def lacks(attribute: str, member: int) -> Condition:
    """Require that the set does not have the number; a missing set has none."""
    return lambda request: f"NOT contains({request.name(attribute)}, {request.value(member)})"


def all_of(*conditions: Condition) -> Condition:
    """Require every one of the conditions."""
    return lambda request: " AND ".join(condition(request) for condition in conditions)


def any_of(*conditions: Condition) -> Condition:
    """Require one of the conditions."""
    return lambda request: f"({' OR '.join(condition(request) for condition in conditions)})"


# ─── Statements: many conditional writes in one request ───
#
# BatchWriteItem has no conditions, and a PutItem or UpdateItem each costs a round trip each. PartiQL's INSERT
# is refused where an item exists, its UPDATE where there is none or its condition does not hold. 25 of them
# go in one BatchExecuteStatement, each with its own answer, for the same write units. The role needs
# ``dynamodb:PartiQLInsert`` and ``dynamodb:PartiQLUpdate``.

#: Statements in one request (BatchExecuteStatement, API reference).
STATEMENT_BATCH = 25

#: The most characters in one request. The limit is not documented; single items are up to 400 KB.
STATEMENT_BYTES = 1_000_000


def statement_batches(items: Mapping[Any, Item]) -> Iterator[dict[Any, Item]]:
    """Divide items, by key, into requests of a bounded number and size."""
    batch: dict[Any, Item] = {}
    size = 0
    for key, item in items.items():
        length = sum(len(value) for value in item.values() if isinstance(value, str | bytes))
        if batch and (len(batch) == STATEMENT_BATCH or size + length > STATEMENT_BYTES):
            yield batch
            batch, size = {}, 0
        batch[key] = item
        size += length
    if batch:
        yield batch


def insert_statement(table: str, raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return the statement that puts an item (as on the wire) where there is none."""
    fields = ", ".join(f"'{name}': ?" for name in raw)
    return {
        "Statement": f'INSERT INTO "{table}" VALUE {{{fields}}}',
        "Parameters": list(raw.values()),
    }


def update_statement(
    table: str, key: Mapping[str, Any], put: Mapping[str, Any], unless: str
) -> dict[str, Any]:
    """Return the statement that sets attributes of an item that exists and lacks the attribute ``unless``.

    ``key`` and ``put`` are as on the wire.
    """
    fields = ", ".join(f'"{name}" = ?' for name in put)
    wanted = " AND ".join(f'"{name}" = ?' for name in key)
    return {
        # Values are parameters, and names are this project's own.
        "Statement": f'UPDATE "{table}" SET {fields} WHERE {wanted} AND "{unless}" IS MISSING',  # noqa: S608
        "Parameters": [*put.values(), *key.values()],
    }
