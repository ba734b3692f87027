"""DynamoDB write units, computed from a request and its answer: the emulators do not count them as AWS does.

Rules from the DynamoDB developer guide ("Read/write capacity: write request units" and "Item sizes and
formats"): one unit for each started KB of the item, the larger of before and after; a condition that fails
costs the same; a KEYS_ONLY index costs one unit for an entry put and two for an entry that moves.
"""

import json
from collections.abc import Mapping
from typing import Any

#: The sort key of the table's index: what has it is in the index.
INDEX_KEY = "isk"


def write_units(target: str, request: bytes, answer: bytes) -> float:
    """The write units of one request, 0 for a read. ``target`` as in the header ``X-Amz-Target``."""
    operation = target.rpartition(".")[2]
    if operation not in _COUNTED:
        return 0
    return _COUNTED[operation](json.loads(request), json.loads(answer))


def item_size(item: Mapping[str, Any]) -> int:
    """The bytes of an item in DynamoDB's own JSON."""
    return sum(len(name.encode()) + _size(value) for name, value in item.items())


def _put(request: Any, answer: Any) -> float:
    # A refused put returns the item that was there.
    return _kilobytes(request["Item"]) + (INDEX_KEY in request["Item"] and "Item" not in answer)


def _update(request: Any, answer: Any) -> float:
    item = answer.get("Attributes") or answer.get("Item") or request["Key"]
    moves = INDEX_KEY in request.get("ExpressionAttributeNames", {}).values() and "Attributes" in answer
    return _kilobytes(item) + 2 * moves


def _delete(request: Any, answer: Any) -> float:
    return _kilobytes(answer.get("Attributes") or request["Key"])


def _batch(request: Any, _answer: Any) -> float:
    units = 0.0
    for writes in request["RequestItems"].values():
        for write in writes:
            units += _put({"Item": write["PutRequest"]["Item"]}, {}) if "PutRequest" in write else 1
    return units


_COUNTED = {"PutItem": _put, "UpdateItem": _update, "DeleteItem": _delete, "BatchWriteItem": _batch}


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
            return len(content) * 3 // 4  # base64 on the wire
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
    """One byte for every two digits, and one."""
    digits = sum(character.isdigit() for character in text)
    return (digits + 1) // 2 + 1
