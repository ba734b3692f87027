"""Debezium's envelope of a change of a row: what was done, the row before and after, and where.

The format: https://debezium.io/documentation/reference/stable/connectors/ ("Data change events").
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal

from pydantic_core import from_json, to_json

Operation = Literal["create", "update", "delete", "read", "truncate"]

_OPERATIONS: Final[Mapping[str, Operation]] = {
    "c": "create",
    "u": "update",
    "d": "delete",
    # Of a snapshot.
    "r": "read",
    "t": "truncate",
}

#: All fields of an envelope, over all connectors. An object with another one is none.
_FIELDS: Final = frozenset({"before", "after", "source", "op", "ts_ms", "ts_us", "ts_ns", "transaction"})

#: Every envelope has them, so a value without these bytes need not be parsed.
_TRACES: Final = (b'"op"', b'"source"', b'"connector"')


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a change was made."""

    #: "postgresql", "mysql", "sqlserver", …
    connector: str
    #: The connector's logical name, which begins the names of its topics.
    name: str
    db: str | None
    #: None for databases that have none.
    schema: str | None
    table: str | None
    #: When the change was made in the database; None where it is not told.
    time: datetime | None
    #: Whether it was read by a snapshot, and not in the database's log.
    snapshot: bool
    #: All fields, with the position in the log as the connector has it.
    fields: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Change:
    """One change of a row."""

    operation: Operation
    #: The row as it was and as it is, with the columns that Debezium gives.
    before: Any
    after: Any
    source: Source

    @property
    def row(self) -> bytes:
        """The row that it is about as JSON: as it is, or as it was when it is no more; null without one."""
        return to_json(self.before if self.operation == "delete" else self.after, inf_nan_mode="strings")


def change_in(data: bytes) -> Change | None:
    """Return the change in the JSON value of a record; None for any other value."""
    if not all(trace in data for trace in _TRACES):
        return None
    value = from_json(data)
    if not isinstance(value, dict) or not value.keys() <= _FIELDS:
        return None
    operation, source = _OPERATIONS.get(str(value.get("op"))), value.get("source")
    if operation is None or not isinstance(source, dict) or not isinstance(source.get("connector"), str):
        return None
    return Change(
        operation=operation, before=value.get("before"), after=value.get("after"), source=_source(source)
    )


def _source(fields: Mapping[str, Any]) -> Source:
    def text(name: str) -> str | None:
        value = fields.get(name)
        return None if value is None else str(value)

    return Source(
        connector=str(fields["connector"]),
        name=text("name") or "",
        db=text("db"),
        schema=text("schema"),
        # MongoDB's are collections.
        table=text("table") or text("collection"),
        time=_time(fields.get("ts_ms")),
        # True, "true", "first", "last", "incremental", …
        snapshot=fields.get("snapshot") not in (None, False, "false"),
        fields=fields,
    )


def _time(milliseconds: Any) -> datetime | None:
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC) if milliseconds else None
    except (TypeError, ValueError, OverflowError, OSError):
        return None
