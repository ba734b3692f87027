"""The write units of requests, counted as DynamoDB tells them."""

from typing import Any

from pipeline.jobs.writeunits import CountingClient
from pipeline.telemetry import metrics


class Client:
    """Answers every call with the same consumed capacity, and keeps its fields."""

    def __init__(self, consumed: Any) -> None:
        self.consumed = consumed
        self.asked: list[dict[str, Any]] = []

    def update_item(self, **fields: Any) -> dict[str, Any]:
        self.asked.append(fields)
        return {"Attributes": {}} | ({"ConsumedCapacity": self.consumed} if self.consumed else {})

    put_item = batch_write_item = batch_execute_statement = query = update_item


def counted() -> list[float]:
    """The units of the table, and of the index."""
    name = "pipeline_table_write_units_total"
    return [metrics.REGISTRY.get_sample_value(name, {"resource": each}) or 0 for each in ("table", "by_time")]


def consumed(table: float, **indexes: float) -> dict[str, Any]:
    """The consumed capacity of one operation, in DynamoDB's form."""
    told: dict[str, Any] = {
        "TableName": "jobs",
        "CapacityUnits": table + sum(indexes.values()),
        "Table": {"CapacityUnits": table},
    }
    if indexes:
        told["GlobalSecondaryIndexes"] = {name: {"CapacityUnits": n} for name, n in indexes.items()}
    return told


def test_units_of_table_and_index_are_counted_apart() -> None:
    """Of one write, and of all statements of a batch; an item outside the index takes none of it."""
    before = counted()
    CountingClient(Client(consumed(2.0, by_time=1.0))).update_item(TableName="jobs")
    batch = CountingClient(Client([consumed(1.0, by_time=2.0), consumed(1.0)]))
    batch.batch_execute_statement(Statements=[])
    assert [now - then for now, then in zip(counted(), before, strict=True)] == [4, 3]


def test_only_writes_are_asked_for_their_units() -> None:
    """A read is passed on as it is; so is what a caller asks for itself."""
    client = Client(None)
    counting = CountingClient(client)
    counting.put_item(TableName="jobs")
    counting.query(TableName="jobs")
    counting.batch_write_item(ReturnConsumedCapacity="TOTAL")
    assert client.asked == [
        {"TableName": "jobs", "ReturnConsumedCapacity": "INDEXES"},
        {"TableName": "jobs"},
        {"ReturnConsumedCapacity": "TOTAL"},
    ]


def test_an_emulator_that_tells_no_units_is_no_error() -> None:
    """The answer is the client's own."""
    before = counted()
    assert CountingClient(Client(None)).update_item() == {"Attributes": {}}
    assert counted() == before
