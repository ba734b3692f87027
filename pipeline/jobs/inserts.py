"""Inserts: many conditional puts in one request.

BatchWriteItem has no conditions, and a PutItem each costs a round trip each; PartiQL's INSERT is refused
where an item is, and 25 of them go in one BatchExecuteStatement, each with an answer of its own. It costs
the same write units. The role needs ``dynamodb:PartiQLInsert``.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.errors import ServiceError
from pipeline.jobs.errors import statement_error
from pipeline.jobs.keys import Key
from pipeline.jobs.wire import Item

#: Statements in one request (BatchExecuteStatement, API reference).
BATCH = 25

#: The most characters in one request of inserts. The limit is not documented; single items are up to 400 KB.
INSERT_BYTES = 1_000_000


def chunks(items: Mapping[Key, Item]) -> Iterator[dict[Key, Item]]:
    """The items in requests of a bounded number and size."""
    chunk: dict[Key, Item] = {}
    size = 0
    for key, item in items.items():
        length = sum(len(value) for value in item.values() if isinstance(value, str | bytes))
        if chunk and (len(chunk) == BATCH or size + length > INSERT_BYTES):
            yield chunk
            chunk, size = {}, 0
        chunk[key] = item
        size += length
    if chunk:
        yield chunk


def insert_statement(table: str, raw: Mapping[str, Any]) -> dict[str, Any]:
    """The statement that puts an item (as on the wire) where there is none."""
    fields = ", ".join(f"'{name}': ?" for name in raw)
    return {
        "Statement": f'INSERT INTO "{table}" VALUE {{{fields}}}',
        "Parameters": list(raw.values()),
    }


def inserted(error: Mapping[str, str] | None, action: str) -> bool | ServiceError:
    """What the answer to one statement means: True, False for an item that was there, or why not."""
    if error and error.get("Code") != "DuplicateItem":
        return statement_error(error, action)
    return not error
