"""The door to DynamoDB: batches that return incomplete, errors as decisions, unchanged values."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    NoCredentialsError,
    NoRegionError,
    ReadTimeoutError,
)

from pipeline.errors import MessageRefusedError, ServiceRefusedError, ServiceUnavailableError
from pipeline.jobs import table as table_module
from pipeline.jobs.errors import table_error
from pipeline.jobs.expressions import Item, dump_item, load_item
from pipeline.jobs.table import AHEAD, BATCH_TRIES, Table
from pipeline.telemetry import metrics
from tests.fakes.dynamodb import FakeDynamoDB


class HalfDone(FakeDynamoDB):
    """A DynamoDB that does one item of a batch and leaves the rest unprocessed, ``times`` times."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    def batch_write_item(self, *, RequestItems: Any) -> Any:  # noqa: N803 - the field's name
        """Write the first only."""
        ((table, requests),) = RequestItems.items()
        if not self._leaves_some() or len(requests) == 1:
            return super().batch_write_item(RequestItems=RequestItems)
        super().batch_write_item(RequestItems={table: requests[:1]})
        return {"UnprocessedItems": {table: requests[1:]}}

    def batch_get_item(self, *, RequestItems: Any) -> Any:  # noqa: N803 - the field's name
        """Read the first only."""
        ((table, request),) = RequestItems.items()
        keys = request["Keys"]
        if not self._leaves_some() or len(keys) == 1:
            return super().batch_get_item(RequestItems=RequestItems)
        answer = super().batch_get_item(RequestItems={table: {**request, "Keys": keys[:1]}})
        return answer | {"UnprocessedKeys": {table: {**request, "Keys": keys[1:]}}}

    def _leaves_some(self) -> bool:
        self.times -= 1
        return self.times >= 0


@pytest.fixture(autouse=True)
def _no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_module, "BATCH_WAIT", 0)


def items(count: int) -> dict[tuple[str, str], Item | None]:
    """Some items by key."""
    return {(f"p{n}", "-"): {"n": n} for n in range(count)}


def test_what_a_batch_leaves_unprocessed_is_sent_again() -> None:
    """Every item of more than one request is written and read, though each answer leaves some."""
    client = HalfDone(4)
    table = Table("jobs", lambda: client)  # type: ignore[arg-type,return-value]
    written = items(60)
    assert table.put_many(written) == {}
    client.times = 4
    assert {key: item["n"] for key, item in table.get_many([*written, *written]).items()} == {
        key: n for n, key in enumerate(written)
    }


class Throttling(FakeDynamoDB):
    """A DynamoDB that executes the first statement of a batch and throttles the others."""

    def batch_execute_statement(self, *, Statements: Any) -> Any:  # noqa: N803 - the field's name
        """Execute the first only."""
        answer = super().batch_execute_statement(Statements=Statements[:1])
        error = {"Code": "ThrottlingError", "Message": "slow down"}
        return {"Responses": answer["Responses"] + [{"Error": error}] * (len(Statements) - 1)}


def throttled(operation: str, reason: str) -> float:
    """The count of throttled requests."""
    labels = {"operation": operation, "reason": reason}
    return metrics.REGISTRY.get_sample_value("pipeline_dynamodb_throttled_total", labels) or 0


def test_what_is_throttled_within_a_batch_is_counted() -> None:
    """Each statement; each request whose items were written in part. A duplicate is not throttled."""
    statements = throttled("BatchExecuteStatement", "ThrottlingError")
    writes, reads = throttled("BatchWriteItem", "unprocessed"), throttled("BatchGetItem", "unprocessed")
    Table("jobs", Throttling).insert_many([((f"i{n}", "-"), {"n": n}) for n in range(4)])  # type: ignore[arg-type]
    client = HalfDone(3)
    table = Table("jobs", lambda: client)  # type: ignore[arg-type,return-value]
    table.put_many(items(5))
    client.times = 3
    table.get_many(items(5))
    table.insert_many([(("p0", "-"), {"n": 0})])
    assert throttled("BatchExecuteStatement", "ThrottlingError") == statements + 3
    assert throttled("BatchWriteItem", "unprocessed") == writes + 3
    assert throttled("BatchGetItem", "unprocessed") == reads, "16 MB of an answer leave keys unprocessed, too"


class Picky(FakeDynamoDB):
    """Refuses a request for one number in it that it cannot hold, as DynamoDB does."""

    def batch_write_item(self, *, RequestItems: Any) -> Any:  # noqa: N803 - the field's name
        """Refuse all of it."""
        self._check_numbers(repr(RequestItems))
        return super().batch_write_item(RequestItems=RequestItems)

    def batch_execute_statement(self, *, Statements: Any) -> Any:  # noqa: N803 - the field's name
        """Refuse all of it."""
        self._check_numbers(repr(Statements))
        return super().batch_execute_statement(Statements=Statements)

    def _check_numbers(self, request: str) -> None:
        if "e-200" in request.lower():
            message = "Number underflow. Attempting to store a number with magnitude smaller than supported"
            raise ClientError({"Error": {"Code": "ValidationException", "Message": message}}, "Batch")


def test_a_refusal_for_one_item_is_that_items() -> None:
    """The others of its request are written, and nothing stops the process that writes them."""
    client = Picky()
    table = Table("jobs", lambda: client)  # type: ignore[arg-type,return-value]
    poison = {("poison", "-"): {"n": 1e-200}}
    errors = table.put_many(items(30) | poison)
    assert [type(error) for error in errors.values()] == [MessageRefusedError]
    assert list(errors) == [("poison", "-")]
    numbers = [((f"i{n}", "-"), {"n": 1e-200 if n == 3 else n}) for n in range(30)]
    answers = table.insert_many(numbers).errors
    assert [at for at, error in enumerate(answers) if error] == [3]
    assert isinstance(answers[3], MessageRefusedError)
    assert len(client.items) == 30 + 29


def test_attributes_are_set_where_an_item_lacks_one() -> None:
    """Of more items than a request holds: an item that has the attribute stays, and none is made."""
    client = Picky()
    table = Table("jobs", lambda: client)  # type: ignore[arg-type,return-value]
    table.put_many({**items(60), ("p7", "-"): {"closed": 1}})
    marks: dict[tuple[str, str], Item] = {
        (f"p{n}", "-"): {"closed": 1e-200 if n == 3 else 2} for n in range(61)
    }
    errors = table.set_many(marks, unless="closed")
    assert [(key, type(error)) for key, error in errors.items()] == [(("p3", "-"), MessageRefusedError)]
    found = {key[0]: item.get("closed") for key, item in table.get_many(marks).items()}
    assert found == {f"p{n}": {3: None, 7: 1}.get(n, 2) for n in range(60)}


def test_a_batch_that_stays_unprocessed_is_unavailable() -> None:
    """A throttled table is no success: the items of that request are told, the others are written."""
    client = HalfDone(BATCH_TRIES)
    table = Table("jobs", lambda: client)  # type: ignore[arg-type,return-value]
    written = items(30)
    errors = table.put_many(written)
    assert list(errors) == list(written)[:25]
    assert all(isinstance(error, ServiceUnavailableError) for error in errors.values())
    client.times = BATCH_TRIES
    with pytest.raises(ServiceUnavailableError, match="unprocessed"):
        table.get_many(written)


def test_values_come_back_as_they_were() -> None:
    """Every type that is stored is read as itself; None is not stored."""
    item: Item = {
        "text": "é",
        "yes": True,
        "int": -7,
        "float": 1_700_000_000.125,
        "tiny": 1e-07,
        "bytes": b"\x00\xff",
        "names": frozenset({"a", "b"}),
        "numbers": frozenset({0, 255}),
        "list": [1, ["x"]],
        "map": {"a": "b"},
    }
    assert load_item(dump_item({**item, "nothing": None})) == item


def client_error(code: str, status: int = 400) -> ClientError:
    """An answer of DynamoDB's."""
    return ClientError(
        {"Error": {"Code": code, "Message": "no"}, "ResponseMetadata": {"HTTPStatusCode": status}},  # type: ignore[typeddict-item]
        "UpdateItem",
    )


@pytest.mark.parametrize(
    "error",
    [
        client_error("ProvisionedThroughputExceededException"),
        client_error("ThrottlingException"),
        client_error("RequestLimitExceeded"),
        client_error("com.amazonaws.dynamodb.v20120810#InternalServerError", 500),
        client_error("Anything", 503),
        client_error("ExpiredTokenException"),
        ReadTimeoutError(endpoint_url="here"),
        ConnectTimeoutError(endpoint_url="here"),
    ],
    ids=str,
)
def test_what_may_pass_is_asked_again(error: ClientError | BotoCoreError) -> None:
    """Throttled, broken inside, timed out: unavailable."""
    assert isinstance(table_error(error, "read"), ServiceUnavailableError)


@pytest.mark.parametrize(
    "error",
    [
        client_error("ResourceNotFoundException"),
        client_error("AccessDeniedException"),
        client_error("ValidationException"),
        NoCredentialsError(),
        NoRegionError(),
    ],
    ids=str,
)
def test_what_stays_is_refused(error: ClientError | BotoCoreError) -> None:
    """Missing, forbidden, malformed, without credentials: refused."""
    assert isinstance(table_error(error, "read"), ServiceRefusedError)


def test_a_refusal_names_the_action_the_reason_and_the_mend() -> None:
    """A person reads what was being done, and what to do."""
    text = str(table_error(client_error("ResourceNotFoundException"), "read x in table jobs"))
    assert "Could not read x in table jobs: ResourceNotFoundException: no" in text
    assert "pipeline provision" in text


# ─── Reading ahead ───


def test_calls_are_made_ahead_and_answered_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few at once: none is answered before as many are under way."""
    # A pool of its own: one that was used before may count a busy thread as idle for a while, and then starts
    # fewer threads than there are calls that wait for each other here (3 of 3,000 tries on Python 3.13).
    pool = ThreadPoolExecutor(AHEAD)
    monkeypatch.setattr(table_module, "request_pool", lambda: pool)
    together = threading.Barrier(AHEAD)

    def call(number: int) -> int:
        together.wait(60)
        return -number

    answers = Table("jobs").ahead(call, range(5 * AHEAD))
    assert list(answers) == [-number for number in range(5 * AHEAD)]


def test_no_more_calls_are_made_than_a_few_ahead_of_the_reader() -> None:
    """What is read waits in memory; a reader that stops, or that an error stops, leaves no call behind."""
    begun: list[int] = []
    all_begun = threading.Event()

    def call(number: int) -> int:
        begun.append(number)
        if len(begun) == AHEAD + 1:
            all_begun.set()
        if number == 1:
            raise ServiceUnavailableError("away")
        return number

    answers = Table("jobs").ahead(call, range(100))
    assert next(answers) == 0
    assert all_begun.wait(60)
    with pytest.raises(ServiceUnavailableError):
        next(answers)
    assert list(answers) == []
    assert sorted(begun) == list(range(AHEAD + 1))


def test_the_items_of_many_keys_come_in_order_of_the_keys() -> None:
    """Each key's own in order of sk, also those of a key that has none."""
    client = FakeDynamoDB()
    table = Table("jobs", lambda: client)  # type: ignore[arg-type,return-value]
    table.put_many({(f"p{n}", f"{m}"): {"n": n} for n in range(9) for m in range(n)})
    found = [[item["sk"] for item in own] for own in table.query_each([f"p{n}" for n in range(9)])]
    assert found == [[f"{m}" for m in range(n)] for n in range(9)]
