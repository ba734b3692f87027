"""Debezium's events, as its documentation has them, in a consumer."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from pipeline import InvalidInputError, Record, consumer, stage
from pipeline.author.consumers import Consumer
from pipeline.author.registry import Registry
from pipeline.bridge.translator import event_of
from pipeline.kafka import ReceivedRecord
from pipeline.registry.contents import Contents
from pipeline.wire.debezium import change_in
from tests.builders import settings

EXAMPLES = json.loads((Path(__file__).parents[1] / "data" / "debezium" / "postgresql.json").read_text())
PAYLOADS = EXAMPLES["payloads"]

#: Kafka Connect's JSON converter writes no spaces.
COMPACT = (",", ":")


class Customer(BaseModel):
    id: int
    first_name: str | None = None
    email: str | None = None


class Whole(BaseModel):
    """A row of which no column may be missing."""

    id: int
    first_name: str


def text(value: Any) -> bytes:
    """JSON as Kafka Connect writes it."""
    return json.dumps(value, separators=COMPACT).encode()


def wrapped(payload: Any) -> bytes:
    """The same with its schema."""
    return text({"schema": EXAMPLES["schema"], "payload": payload})


def change(operation: str, **changes: Any) -> dict[str, Any]:
    """An envelope of the documentation, changed."""
    return {**PAYLOADS[operation], **changes}


def consume(
    value: bytes | None, kind: Any = Customer, key: bytes | None = None
) -> tuple[list[Any], list[Any]]:
    """Run a consumer as the bridge does; return the records that it was given, and the events it made."""
    seen: list[Any] = []
    registry = Registry()

    @stage(consumes="customers", registry=registry)
    def greet(name: str) -> None: ...

    def take(record: Any) -> str:
        seen.append(record)
        return record.operation or "none"

    take.__annotations__["record"] = Record[kind]
    made: Consumer[Any, Any] = consumer("cdc", emits="customers", registry=registry)(take)
    registry.check()
    received = ReceivedRecord(
        topic="cdc", partition=0, offset=1, timestamp_ms=1_700_000_000_000, key=key, value=value, headers=()
    )
    read = Contents(settings()).read(received)
    events = made.make_events("s", event_of(read), key=read.key, headers=read.headers)
    return seen, events


@pytest.mark.parametrize("write", [text, wrapped], ids=["plain", "with its schema"])
def test_each_operation_is_a_typed_record(write: Any) -> None:
    """The row is read by the annotation: as it is, and as it was where it is deleted."""
    [created], _ = consume(write(PAYLOADS["create"]))
    assert created.operation == "create"
    assert created.data == Customer(id=1, first_name="Anne", email="annek@noanswer.org")
    assert created.before is None
    assert created.after["last_name"] == "Kretchmar"
    assert created.source.connector == "postgresql"
    assert (created.source.db, created.source.schema, created.source.table) == (
        "postgres",
        "public",
        "customers",
    )
    assert created.source.time == datetime(2019, 5, 28, 8, 58, 24, 863000, UTC)
    assert created.source.snapshot
    assert created.source.fields["lsn"] == 24023128
    [updated], _ = consume(write(PAYLOADS["update"]))
    assert (updated.operation, updated.before, updated.data.first_name) == ("update", {"id": 1}, "Anne Marie")
    assert not updated.source.snapshot
    [deleted], _ = consume(write(PAYLOADS["delete"]))
    assert (deleted.operation, deleted.data, deleted.after) == ("delete", Customer(id=1), None)


def test_a_row_of_a_snapshot_is_marked() -> None:
    """Its operation says so, and its source; Debezium marks the last one of a table in its own way."""
    source = {**PAYLOADS["create"]["source"], "snapshot": "last_in_data_collection"}
    [read], _ = consume(text(change("create", op="r", source=source)))
    assert read.operation == "read"
    assert read.source.snapshot


def test_a_row_before_a_change_need_not_be_whole() -> None:
    """PostgreSQL gives the key alone, unless the table says REPLICA IDENTITY FULL: the update is read."""
    [updated], _ = consume(text(PAYLOADS["update"]), Whole)
    assert updated.data == Whole(id=1, first_name="Anne Marie")
    with pytest.raises(InvalidInputError, match="first_name"):
        consume(text(PAYLOADS["delete"]), Whole)


def test_a_truncate_has_no_row() -> None:
    """It is passed over, unless the annotation takes None."""
    truncate = text(change("delete", op="t", before=None))
    assert consume(truncate) == ([], [])
    [record], _ = consume(truncate, Customer | None)
    assert (record.operation, record.data) == ("truncate", None)


def test_transactions_are_no_matter() -> None:
    """With ``provide.transaction.metadata`` each change names its transaction."""
    named = {"id": "571", "total_order": 1, "data_collection_order": 1}
    [record], _ = consume(text(change("create", transaction=named)))
    assert record.operation == "create"


@pytest.mark.parametrize(
    "other",
    [
        {"op": "c", "source": "shop", "connector": 1},
        {"op": "x", "source": {"connector": "postgresql"}, "before": None, "after": {}},
        {**PAYLOADS["create"], "mine": 1},
        {**PAYLOADS["create"], "op": ["c"]},
        {"source": PAYLOADS["create"]["source"], "ts_ms": 1, "databaseName": "d", "ddl": "CREATE", "op": "c"},
        ["op", "source", "connector"],
    ],
)
def test_what_only_looks_like_an_envelope_is_none(other: Any) -> None:
    """An object of somebody else's, and Debezium's own events of schemas, are data as they are."""
    assert change_in(text(other)) is None


def test_a_key_is_the_same_entity_with_and_without_its_schema() -> None:
    """So a connector's converter may be changed, and the order of each row stays."""
    schema = {"type": "struct", "fields": [], "optional": False, "name": "Key"}
    keys = (text({"id": 1}), text({"schema": schema, "payload": {"id": 1}}))
    entities = {consume(text(PAYLOADS["create"]), key=key)[1][0].entity_id for key in keys}
    assert entities == {'{"id":1}'}


@pytest.mark.parametrize(
    "value",
    [
        {"schema": {"type": "mine"}, "payload": 1},
        {"schema": {"type": "mine", "optional": False}, "payload": 1, "more": 2},
    ],
)
def test_an_object_of_a_stage_with_such_names_is_not_unwrapped(value: Any) -> None:
    """Only what Kafka Connect writes is."""
    received = ReceivedRecord(
        topic="t", partition=0, offset=1, timestamp_ms=1, key=None, value=text(value), headers=()
    )
    assert Contents(settings()).read(received).value == received.value
