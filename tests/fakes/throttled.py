"""A DynamoDB table that says no: it enforces what a partition key takes, in the table and in its indexes.

Sources: "Best practices for designing and using partition keys", "Read/write capacity: request units" and
"Global secondary indexes: write throughput" (developer guide). A write that an index cannot take is refused
in the table, too: that is the index's back-pressure.

A partition of DynamoDB holds many keys, so real tables throttle no later than this one.
"""

# ruff: noqa: N803 - the names of fields are DynamoDB's

import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from typing import Any

from botocore.exceptions import ClientError

from benchmarks.units import item_size
from tests.fakes.dynamodb import FakeDynamoDB
from tests.fakes.limits import Bucket, Clock

Raw = dict[str, Any]

#: Units a second of one partition key.
WRITES, READS = 1_000, 3_000

#: The partition keys of the indexes: of jobs by time, and by entity.
INDEX_KEYS = ("ipk", "epk")

_MESSAGE = "Throughput exceeds the current capacity of your table or index"


class ThrottledDynamoDB(FakeDynamoDB):
    """Requests on items that are out of units are refused as DynamoDB does; others are done and charged."""

    def __init__(self, clock: Clock, *, writes: float = WRITES, reads: float = READS) -> None:
        """``writes`` and ``reads``: units a second of one partition key."""
        super().__init__()
        #: Refused requests by the partition key, or the index's, that had no units.
        self.throttled: Counter[str] = Counter()
        self._writes = defaultdict[str, Bucket](lambda: Bucket(writes, clock))
        self._reads = defaultdict[str, Bucket](lambda: Bucket(reads, clock))
        # Batches come on several threads.
        self._lock = threading.RLock()

    # ─── Writes ───

    def put_item(self, *, Item: Raw, **fields: Any) -> Raw:
        """Put an item, or refuse it."""
        return self._write(Item, lambda: FakeDynamoDB.put_item(self, Item=Item, **fields))

    def update_item(self, *, Key: Raw, **fields: Any) -> Raw:
        """Update an item, or refuse it."""
        return self._write(Key, lambda: FakeDynamoDB.update_item(self, Key=Key, **fields))

    def batch_write_item(self, *, RequestItems: Raw) -> Raw:
        """Write what has units; the rest is unprocessed. Refuse a request of which nothing has."""
        ((table, requests),) = RequestItems.items()

        def write(request: Raw) -> None:
            key = (
                request["PutRequest"]["Item"] if "PutRequest" in request else request["DeleteRequest"]["Key"]
            )
            one = {table: [request]}
            self._write(key, lambda: FakeDynamoDB.batch_write_item(self, RequestItems=one))

        left = self._left(requests, write)
        return {"UnprocessedItems": {table: left} if left else {}}

    def batch_execute_statement(self, *, Statements: list[Raw]) -> Raw:
        """Execute each statement, or answer that it is throttled."""
        answers = []
        for each in Statements:
            pk, sk = _key_of(each)
            one = [each]
            try:
                done = self._write(
                    {"pk": pk, "sk": sk},
                    lambda one=one: FakeDynamoDB.batch_execute_statement(self, Statements=one),  # type: ignore[misc]
                )
                answers += done["Responses"]
            except ThrottledError:
                answers.append({"Error": {"Code": "ThrottlingError", "Message": _MESSAGE}})
        return {"Responses": answers}

    # ─── Reads ───

    def get_item(self, *, Key: Raw, ConsistentRead: bool = False, **fields: Any) -> Raw:
        """Return an item, or refuse."""

        def read() -> Raw:
            return FakeDynamoDB.get_item(self, Key=Key, **fields)

        return self._read(Key["pk"]["S"], ConsistentRead, read, lambda answer: [answer.get("Item", {})])

    def batch_get_item(self, *, RequestItems: Raw) -> Raw:
        """Return the items that have units; the rest is unprocessed."""
        ((table, asked),) = RequestItems.items()
        found: list[Raw] = []

        def read(key: Raw) -> None:
            one = {table: {**asked, "Keys": [key]}}
            answer = self._read(
                key["pk"]["S"],
                asked.get("ConsistentRead", False),
                lambda: FakeDynamoDB.batch_get_item(self, RequestItems=one),
                lambda answer: answer["Responses"][table],
            )
            found.extend(answer["Responses"][table])

        left = self._left(asked["Keys"], read)
        unprocessed = {table: {**asked, "Keys": left}} if left else {}
        return {"Responses": {table: found}, "UnprocessedKeys": unprocessed}

    def query(self, *, ConsistentRead: bool = False, **fields: Any) -> Raw:
        """Return the items under a key of the table or of the index, or refuse."""
        pk = next(iter(fields["ExpressionAttributeValues"].values()))["S"]
        return self._read(
            pk, ConsistentRead, lambda: FakeDynamoDB.query(self, **fields), lambda answer: answer["Items"]
        )

    # ─── Units ───

    def _write(self, key: Raw, call: Callable[[], Raw]) -> Raw:
        """Write one item and charge it; undo that and refuse if a key that it touches has no units."""
        at = key["pk"]["S"], key["sk"]["S"]
        with self._lock:
            before = dict(self.items[at]) if at in self.items else None
            error = None
            try:
                answer = call()
            except ClientError as failed:
                error = failed
            after = self.items.get(at)
            units = Counter({at[0]: max(_kilobytes(before), _kilobytes(after))}) + _index_units(before, after)
            if empty := [name for name in units if not self._writes[name].is_open]:
                self._put_back(at, before)
                self._refuse(empty[0])
            for name, cost in units.items():
                self._writes[name].take(cost)
        if error is not None:
            raise error
        return answer

    def _read(
        self, pk: str, consistent: bool, call: Callable[[], Raw], items: Callable[[Raw], Iterable[Raw]]
    ) -> Raw:
        with self._lock:
            if not self._reads[pk].is_open:
                self._refuse(pk)
            answer = call()
            size = sum(item_size(item) for item in items(answer))
            self._reads[pk].take(max(1, -(-size // 4096)) * (1 if consistent else 0.5))
        return answer

    def _left(self, asked: list[Raw], do: Callable[[Raw], None]) -> list[Raw]:
        """Do each; return those that were refused, or refuse all if there are no others."""
        left = []
        for each in asked:
            try:
                do(each)
            except ThrottledError as error:
                left.append(each)
                if len(left) == len(asked):
                    raise error
        return left

    def _put_back(self, at: tuple[str, str], before: Raw | None) -> None:
        if before is None:
            self.items.pop(at, None)
        else:
            self.items[at] = before

    def _refuse(self, pk: str) -> None:
        self.throttled[pk] += 1
        raise ThrottledError(
            {"Error": {"Code": "ThrottlingException", "Message": f"{_MESSAGE}: {pk}"}}, "Request"
        )


class ThrottledError(ClientError):
    """A request that had no units."""


def _index_units(before: Raw | None, after: Raw | None) -> Counter[str]:
    """Return the units of an item's entries in the indexes: one for each that is written or removed."""
    units: Counter[str] = Counter()
    for name in INDEX_KEYS:
        old, new = (_entry(item or {}, name) for item in (before, after))
        units.update(entry[0] for entry in (old, new) if entry and old != new)
    return units


def _entry(item: Raw, name: str) -> tuple[str, str] | None:
    return (item[name]["S"], item["isk"]["S"]) if name in item and "isk" in item else None


def _kilobytes(item: Raw | None) -> int:
    return max(1, -(-item_size(item or {}) // 1024))


def _key_of(statement: Raw) -> list[Raw]:
    values = statement["Parameters"]
    return list(values[:2] if statement["Statement"].startswith("INSERT") else values[-2:])
