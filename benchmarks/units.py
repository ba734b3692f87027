"""DynamoDB units, computed from a request and its answer: emulators do not count them as AWS does.

Rules from the DynamoDB developer guide ("Read/write capacity: write request units" and "Item sizes and
formats"): one unit for each started KB of the item, the larger of before and after; a condition that fails
costs the same; an index costs one unit for a new entry and two for one that moves, and nothing when its part
of an item does not change (its entries are smaller than a KB). A strongly consistent read costs one unit for
each started 4 KB of an item, and one where there is none; a query, of all items together; another read half.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

#: The purpose of a write: the result of a part, which the gather reads; or the records that count.
Kind = Literal["result", "record"]

#: The partition key of each written item, as on the wire, and its cost.
Writes = Iterator[tuple[Mapping[str, str], float]]

#: The text that only the partition key of a result contains.
RESULT_KEY = "/R#"

#: The sort key of the table's index: items with it are in the index. The partition key of that by entity.
INDEX_KEY, ENTITY_KEY = "isk", "epk"


def write_units(target: str, request: bytes, answer: bytes) -> dict[Kind, float]:
    """Return the write units of one request by purpose; none for a read.

    ``target`` as in the header ``X-Amz-Target``.
    """
    units: dict[Kind, float] = {}
    if writes := _WRITES.get(target.rpartition(".")[2]):
        for key, cost in writes(json.loads(request), json.loads(answer)):
            kind: Kind = "result" if RESULT_KEY in key["S"] else "record"
            units[kind] = units.get(kind, 0) + cost
    return units


def read_units(target: str, request: bytes, answer: bytes) -> float:
    """Return the read units of one request that is not through the index; none for a write."""
    fields, answered = json.loads(request), json.loads(answer)
    match target.rpartition(".")[2]:
        case "GetItem":
            return _read_cost(fields, [item_size(answered.get("Item", {}))])
        case "BatchGetItem":
            return sum(
                _read_cost(asked, _sizes_found(asked["Keys"], answered["Responses"].get(table, ())))
                for table, asked in fields["RequestItems"].items()
            )
        case "Query":
            return _read_cost(fields, [sum(map(item_size, answered["Items"]))])
    return 0


def _sizes_found(keys: Sequence[Mapping[str, Any]], items: Sequence[Mapping[str, Any]]) -> list[int]:
    """Return the sizes of the items found, and 0 for each key that has none."""
    return [*map(item_size, items), *[0] * (len(keys) - len(items))]


def _read_cost(asked: Mapping[str, Any], sizes: Iterable[int]) -> float:
    share = 1 if asked.get("ConsistentRead") else 0.5
    return share * sum(max(1, -(-size // 4096)) for size in sizes)


def item_size(item: Mapping[str, Any]) -> int:
    """Return the bytes of an item in DynamoDB's own JSON."""
    return sum(len(name.encode()) + _size(value) for name, value in item.items())


def _put(request: Any, answer: Any) -> Writes:
    # A refused put returns the existing item.
    yield request["Item"]["pk"], _put_cost(request["Item"], refused="Item" in answer)


def _put_cost(item: Mapping[str, Any], *, refused: bool) -> float:
    return _kilobytes(item) + (0 if refused else (INDEX_KEY in item) + (ENTITY_KEY in item))


def _update(request: Any, answer: Any) -> Writes:
    item = answer.get("Attributes") or answer.get("Item") or request["Key"]
    moves = INDEX_KEY in request.get("ExpressionAttributeNames", {}).values() and "Attributes" in answer
    yield request["Key"]["pk"], _kilobytes(item) + 2 * moves


def _delete(request: Any, answer: Any) -> Writes:
    yield request["Key"]["pk"], _kilobytes(answer.get("Attributes") or request["Key"])


def _batch(request: Any, _answer: Any) -> Writes:
    for writes in request["RequestItems"].values():
        for write in writes:
            if "PutRequest" in write:
                item = write["PutRequest"]["Item"]
                yield item["pk"], _put_cost(item, refused=False)
            else:
                yield write["DeleteRequest"]["Key"]["pk"], 1


def _statements(request: Any, answer: Any) -> Writes:
    """Parse PartiQL: values are in the parameters, names in the statement.

    An update does not tell the item's size: one that is not larger than a KB is assumed, as a job's is.
    """
    for statement, response in zip(request["Statements"], answer["Responses"], strict=True):
        names = re.findall(r"""['"](\w+)['"](?:: | = )\?""", statement["Statement"])
        item = dict(zip(names, statement["Parameters"], strict=True))
        refused = "Error" in response
        if statement["Statement"].startswith("INSERT"):
            yield item["pk"], _put_cost(item, refused=refused)
        else:
            yield item["pk"], 1 + 2 * (INDEX_KEY in item and not refused)


_WRITES: dict[str, Callable[[Any, Any], Writes]] = {
    "BatchExecuteStatement": _statements,
    "BatchWriteItem": _batch,
    "DeleteItem": _delete,
    "PutItem": _put,
    "UpdateItem": _update,
}


def _kilobytes(item: Mapping[str, Any]) -> int:
    return max(1, -(-item_size(item) // 1024))


def _size(value: Mapping[str, Any]) -> int:
    ((kind, content),) = value.items()
    match kind:
        case "S":
            return len(content.encode())
        case "N":
            return _number_size(content)
        case "B":
            # Base64 on the wire; bytes in botocore's answers.
            return len(content) if isinstance(content, bytes) else len(content) * 3 // 4
        case "SS":
            return sum(len(each.encode()) for each in content)
        case "NS":
            return sum(_number_size(each) for each in content)
        case "L":
            return 3 + sum(1 + _size(each) for each in content)
        case "M":
            return 3 + sum(1 + len(name.encode()) + _size(each) for name, each in content.items())
    return 1  # BOOL and NULL


def _number_size(text: str) -> int:
    """Return one byte for every two digits, and one."""
    digits = sum(character.isdigit() for character in text)
    return (digits + 1) // 2 + 1
