"""Python values to DynamoDB's attribute values and back, and the expressions of conditional updates.

boto3's TypeSerializer does the same through Decimal and costs several times more CPU in the hot path.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

#: An item as the rest of this package sees it.
Item = dict[str, Any]


def dump(value: Any) -> dict[str, Any]:
    """The attribute value of a str, bool, int, float, bytes, mapping, sequence, or set of str or int."""
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
        case Mapping():
            return {"M": {key: dump(each) for key, each in value.items()}}
        case list() | tuple():
            return {"L": [dump(each) for each in value]}
    raise TypeError(f"{type(value).__name__} cannot be stored in DynamoDB")


def load(value: Mapping[str, Any]) -> Any:
    """The Python value of an attribute value. Numbers are int where they can be."""
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
    """An item for the wire. None means: no such attribute."""
    return {name: dump(value) for name, value in item.items() if value is not None}


def load_item(item: Mapping[str, Any]) -> Item:
    """An item from the wire."""
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
        """The placeholder of an attribute's name: many plain words are reserved in expressions."""
        placeholder = f"#{len(self.names)}"
        self.names[placeholder] = attribute
        return placeholder

    def value(self, value: Any) -> str:
        """The placeholder of a value."""
        placeholder = f":{len(self.values)}"
        self.values[placeholder] = dump(value)
        return placeholder

    def update(self, put: Mapping[str, Any], add: Mapping[str, Any], remove: Iterable[str]) -> str:
        """SET, ADD and REMOVE in one update expression."""
        clauses = {
            "SET": [f"{self.name(name)} = {self.value(value)}" for name, value in put.items()],
            "ADD": [f"{self.name(name)} {self.value(value)}" for name, value in add.items()],
            "REMOVE": [self.name(name) for name in remove],
        }
        return " ".join(f"{verb} {', '.join(parts)}" for verb, parts in clauses.items() if parts)

    def fields(self) -> dict[str, Any]:
        """The fields of the request that explain the placeholders."""
        values = {"ExpressionAttributeValues": self.values} if self.values else {}
        return {"ExpressionAttributeNames": self.names, **values}


#: A condition writes itself with the placeholders of the request it is part of.
Condition = Callable[[Expression], str]


def missing(attribute: str) -> Condition:
    """The item has no such attribute (or is not there)."""
    return lambda request: f"attribute_not_exists({request.name(attribute)})"


def present(attribute: str) -> Condition:
    """The item is there and has the attribute."""
    return lambda request: f"attribute_exists({request.name(attribute)})"


def equals(attribute: str, value: Any) -> Condition:
    """The attribute is there with this value."""
    return lambda request: f"{request.name(attribute)} = {request.value(value)}"


def below(attribute: str, value: float) -> Condition:
    """The attribute is not there, or is less."""
    return lambda request: (
        f"(attribute_not_exists({request.name(attribute)}) "
        f"OR {request.name(attribute)} < {request.value(value)})"
    )


def has_size(attribute: str, size: int) -> Condition:
    """The set has so many elements; no set has none."""
    if size == 0:
        return missing(attribute)
    return lambda request: f"size({request.name(attribute)}) = {request.value(size)}"


def all_of(*conditions: Condition) -> Condition:
    """Every one of the conditions."""
    return lambda request: " AND ".join(condition(request) for condition in conditions)
