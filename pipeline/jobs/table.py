"""The table: the few DynamoDB calls this package is made of, with errors converted and batches finished.

Every read is strongly consistent unless it goes through the index or is asked for otherwise.
"""

import os
import random
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, TypeVar

from botocore.exceptions import ClientError

from pipeline.aws.errors import VENDOR_ERRORS
from pipeline.errors import MessageRefusedError, ServiceError, ServiceUnavailableError
from pipeline.jobs.dynamodb import dynamodb_client, request_pool
from pipeline.jobs.errors import error_code, old_item, statement_answer, table_error
from pipeline.jobs.expressions import (
    Condition,
    Expression,
    Item,
    dump_item,
    insert_statement,
    load_item,
    missing,
    statement_batches,
    update_statement,
)
from pipeline.jobs.keys import Key
from pipeline.jobs.throttling import count_statements, count_unprocessed

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

#: The largest item DynamoDB takes is 400 KB, names and keys included; this leaves room for those.
ITEM_BYTES = 390_000

#: The largest BatchGetItem and BatchWriteItem (API reference). The bytes of a write batch (16 MB) are
#: kept by the callers: only pages are large, and they are written few at a time.
GET_BATCH, WRITE_BATCH = 100, 25

#: How often the unprocessed rest of a batch is sent again, and the longest first wait in seconds.
BATCH_TRIES, BATCH_WAIT = 6, 0.05

#: Calls of ``ahead`` that are made before their answers are wanted. An answer to a query has up to 1 MB. With
#: a round trip of 10 ms four are as fast as Python reads 256 small results.
AHEAD = 4

#: The index: jobs by time of submission.
INDEX = "jobs-by-time"

#: The index that a setting asks for: jobs by entity, and by time of submission within one.
ENTITY_INDEX = "jobs-by-entity"

#: The attribute that is the partition key of each index; the sort key of both is "isk".
PARTITION_KEYS = {INDEX: "ipk", ENTITY_INDEX: "epk"}

#: The attributes in the index beside keys. They never change, so they cost no write of their own.
PROJECTED = ("entity",)

T = TypeVar("T")
R = TypeVar("R")

#: Makes the statement that writes an item.
Statement = Callable[[Key, Item], Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Inserted:
    """The answer to a batch of inserts."""

    #: One for each item given, in order: None when it is there now, else why not.
    errors: Sequence[ServiceError | None]
    #: The keys of the items that were there before.
    existing: frozenset[Key]


@dataclass(frozen=True, kw_only=True)
class Updated:
    """The result of a conditional update."""

    #: The item after the update; the item as it was when the condition did not hold ({} when there is none).
    item: Item
    #: Whether the condition held.
    applied: bool


@dataclass(frozen=True, kw_only=True)
class Newest:
    """The newest keys of a partition of the index."""

    #: Sort keys, newest first.
    keys: Sequence[str]
    #: The last key that was looked at; None: all of the partition was.
    looked_to: str | None


class Table:
    """One table, through this process's client."""

    def __init__(self, name: str, client: "Callable[[], DynamoDBClient]" = dynamodb_client) -> None:
        """``client`` gives the client of the process that calls it."""
        self.name = name
        self._make = client
        self._made: tuple[int, DynamoDBClient] | None = None

    # ─── One item ───

    def get(self, key: Key, attributes: Sequence[str] = ()) -> Item | None:
        """Return an item, or some of its attributes; None when there is none."""
        request = Expression()
        projection = ", ".join(map(request.name, attributes))
        fields = {"ProjectionExpression": projection, **request.fields()} if projection else {}
        answer = self._ask("get_item", f"read {key}", Key=_key(key), ConsistentRead=True, **fields)
        return load_item(answer["Item"]) if answer.get("Item") else None

    def put_new(self, key: Key, item: Item, unless: str) -> Item | None:
        """Put an item unless there is one with the attribute ``unless``; return that one, or None."""
        request = Expression()
        condition = missing(unless)(request)
        try:
            self._ask(
                "put_item",
                f"write {key}",
                Item=_with_key(key, item),
                ConditionExpression=condition,
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
                **request.fields(),
            )
        except _ConditionFailed as failed:
            return failed.item
        return None

    def update(
        self,
        key: Key,
        *,
        put: Mapping[str, Any] | None = None,
        add: Mapping[str, Any] | None = None,
        remove: Iterable[str] = (),
        when: Condition | None = None,
    ) -> Updated:
        """Set, add to and remove attributes at once; return the item as it is afterwards."""
        request = Expression()
        fields: dict[str, Any] = {"UpdateExpression": request.update(put or {}, add or {}, remove)}
        if when:
            fields["ConditionExpression"] = when(request)
            fields["ReturnValuesOnConditionCheckFailure"] = "ALL_OLD"
        try:
            answer = self._ask(
                "update_item",
                f"update {key}",
                Key=_key(key),
                ReturnValues="ALL_NEW",
                **fields,
                **request.fields(),
            )
        except _ConditionFailed as failed:
            return Updated(item=failed.item, applied=False)
        return Updated(item=load_item(answer["Attributes"]), applied=True)

    # ─── Many items ───

    def get_many(self, keys: Iterable[Key], consistent: bool = True) -> dict[Key, Item]:
        """Return the items that exist, by key. A key may be given twice."""
        wanted = list(dict.fromkeys(keys))
        chunks = [wanted[at : at + GET_BATCH] for at in range(0, len(wanted), GET_BATCH)]
        found: dict[Key, Item] = {}
        for answer in self.each(lambda chunk: self._get_chunk(chunk, consistent), chunks):
            if isinstance(answer, ServiceError):
                raise answer
            found |= answer
        return found

    def _get_chunk(self, keys: Sequence[Key], consistent: bool) -> dict[Key, Item]:
        found: dict[Key, Item] = {}
        left: Any = {self.name: {"Keys": [_key(key) for key in keys], "ConsistentRead": consistent}}
        for _ in _tries(f"read {len(keys)} items of table {self.name}"):
            answer = self._ask("batch_get_item", f"read {len(keys)} items", table=False, RequestItems=left)
            for raw in answer["Responses"].get(self.name, ()):
                item = load_item(raw)
                found[item["pk"], item["sk"]] = item
            left = answer.get("UnprocessedKeys")
            if not left:
                break
        return found

    def put_many(self, items: Mapping[Key, Item | None]) -> dict[Key, ServiceError]:
        """Put items whatever was there (None: delete it); return the errors, by key.

        A mapping, because a key that is twice in a request makes DynamoDB refuse the whole request.
        """
        rest = iter(items.items())
        errors: dict[Key, ServiceError] = {}
        while chunk := dict(islice(rest, WRITE_BATCH)):
            error = self._put_chunk(chunk)
            if isinstance(error, MessageRefusedError) and len(chunk) > 1:
                # It refuses the whole request for what is in one item.
                for key, item in chunk.items():
                    if alone := self._put_chunk({key: item}):
                        errors[key] = alone
            elif error is not None:
                # Repeating a write changes nothing, so the whole chunk counts as not written.
                errors |= dict.fromkeys(chunk, error)
        return errors

    def _put_chunk(self, chunk: Mapping[Key, Item | None]) -> ServiceError | None:
        left: Any = {self.name: [_write(key, item) for key, item in chunk.items()]}
        try:
            for _ in _tries(f"write {len(chunk)} items of table {self.name}"):
                action = f"write {len(chunk)} items"
                answer = self._ask("batch_write_item", action, table=False, RequestItems=left)
                left = answer.get("UnprocessedItems")
                count_unprocessed(left or {})
                if not left:
                    break
        except ServiceError as error:
            return error
        return None

    def insert_many(self, items: Sequence[tuple[Key, Item]]) -> Inserted:
        """Put items where there are none; an item that is there stays.

        Of a key given twice the first item counts. This is ``put_new`` for many: a conditional write each, 25
        in a request, which is 20 times as fast.
        """
        first = dict(reversed([(key, item) for key, item in items]))
        answers = self._execute(first, self._insert)
        errors = [error if isinstance(error := answers[key], ServiceError) else None for key, _ in items]
        existing = frozenset(key for key, was_put in answers.items() if was_put is False)
        return Inserted(errors=errors, existing=existing)

    def set_many(self, items: Mapping[Key, Item], unless: str) -> dict[Key, ServiceError]:
        """Set attributes of items that exist and lack the attribute ``unless``; return the errors, by key.

        The other items stay as they are. 25 conditional updates in a request.
        """
        answers = self._execute(
            items, lambda key, put: update_statement(self.name, _key(key), dump_item(put), unless)
        )
        return {key: answer for key, answer in answers.items() if isinstance(answer, ServiceError)}

    def _execute(self, items: Mapping[Key, Item], statement: Statement) -> dict[Key, bool | ServiceError]:
        """Execute the statement of each item; return whether it wrote, or its error.

        If DynamoDB refuses a request for what is in it, execute its statements one by one.
        """
        chunks = list(statement_batches(items))
        answers: dict[Key, bool | ServiceError] = {}
        asked = self.each(lambda chunk: self._execute_chunk(chunk, statement), chunks)
        for chunk, answer in zip(chunks, asked, strict=True):
            if isinstance(answer, MessageRefusedError) and len(chunk) > 1:
                for key, item in chunk.items():
                    answers |= self._execute({key: item}, statement)
            else:
                answers |= dict.fromkeys(chunk, answer) if isinstance(answer, ServiceError) else answer
        return answers

    def query(
        self,
        pk: str,
        *,
        since: str | None = None,
        until: str | None = None,
        attributes: Sequence[str] = (),
        consistent: bool = True,
    ) -> Iterator[Item]:
        """Yield the items under a pk in order of sk, from ``since`` to before ``until``, page by page."""
        for answer in self._answers(pk, since, until, attributes, consistent):
            yield from map(load_item, answer)

    def query_each(self, pks: Sequence[str], *, attributes: Sequence[str] = ()) -> Iterator[Iterator[Item]]:
        """Yield the items under each pk, in order. The first answers of the next few are read meanwhile."""

        def begin(pk: str) -> Iterator[list[Any]]:
            answers = self._answers(pk, None, None, attributes, consistent=True)
            return chain([next(answers)], answers)

        for answers in self.ahead(begin, pks):
            yield map(load_item, chain.from_iterable(answers))

    def _answers(
        self,
        pk: str,
        since: str | None,
        until: str | None,
        attributes: Sequence[str],
        consistent: bool,
    ) -> Iterator[list[Any]]:
        """Yield the items of each answer to a query; at least one answer, which may be empty."""
        request = Expression()
        condition = f"{request.name('pk')} = {request.value(pk)}"
        if since is not None and until is not None:
            condition += (
                f" AND {request.name('sk')} BETWEEN {request.value(since)} AND {request.value(until)}"
            )
        projection = ", ".join(map(request.name, attributes))
        fields: dict[str, Any] = {"ProjectionExpression": projection} if projection else {}
        while True:
            answer = self._ask(
                "query",
                f"query {pk}",
                KeyConditionExpression=condition,
                ConsistentRead=consistent,
                **fields,
                **request.fields(),
            )
            yield answer["Items"]
            if not answer.get("LastEvaluatedKey"):
                return
            fields["ExclusiveStartKey"] = answer["LastEvaluatedKey"]

    def newest(
        self,
        index_pk: str,
        limit: int,
        before: str | None = None,
        where: Mapping[str, str] | None = None,
        index: str = INDEX,
    ) -> Newest:
        """Return the last ``limit`` keys of a partition of the index, newest first, before the cursor.

        ``where``: of those only the ones whose attributes (``PROJECTED``) are so. Eventually consistent, as
        an index is.
        """
        request = Expression()
        condition = f"{request.name(PARTITION_KEYS[index])} = {request.value(index_pk)}"
        if before:
            condition += f" AND {request.name('isk')} < {request.value(before)}"
        filters = [f"{request.name(name)} = {request.value(value)}" for name, value in (where or {}).items()]
        filtering: dict[str, Any] = {"FilterExpression": " AND ".join(filters)} if filters else {}
        answer = self._ask(
            "query",
            f"query {index_pk}",
            IndexName=index,
            KeyConditionExpression=condition,
            ScanIndexForward=False,
            Limit=limit,
            **filtering,
            **request.fields(),
        )
        last = answer.get("LastEvaluatedKey")
        return Newest(
            keys=[item["isk"]["S"] for item in answer["Items"]], looked_to=last["isk"]["S"] if last else None
        )

    def oldest(self, index_pk: str, limit: int, after: str, until: str) -> list[Item]:
        """Return the first ``limit`` items of a partition of the index between two cursors, oldest first."""
        request = Expression()
        condition = (
            f"{request.name('ipk')} = {request.value(index_pk)} AND "
            f"{request.name('isk')} BETWEEN {request.value(after)} AND {request.value(until)}"
        )
        answer = self._ask(
            "query",
            f"query {index_pk}",
            IndexName=INDEX,
            KeyConditionExpression=condition,
            Limit=limit,
            **request.fields(),
        )
        return [load_item(item) for item in answer["Items"]]

    def each(self, call: Callable[[T], R], arguments: Sequence[T]) -> list[R | ServiceError]:
        """Call once for each argument, in parallel on a few threads; return the answers, or their errors."""

        def one(argument: T) -> R | ServiceError:
            try:
                return call(argument)
            except ServiceError as error:
                return error

        if len(arguments) < 2:
            return [one(argument) for argument in arguments]
        return list(request_pool().map(one, arguments))

    def ahead(self, call: Callable[[T], R], arguments: Sequence[T]) -> Iterator[R]:
        """Yield the answers in order, or raise the first error; meanwhile make the next few calls."""
        if len(arguments) < 2:
            yield from map(call, arguments)
            return
        waiting: deque[Future[R]] = deque()
        try:
            for argument in arguments:
                waiting.append(request_pool().submit(call, argument))
                if len(waiting) > AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for each in waiting:
                each.cancel()

    # ─── The door ───

    def _client(self) -> "DynamoDBClient":
        # Kept for the process that made it: looking it up takes a tenth of a call's CPU.
        if self._made is None or self._made[0] != os.getpid():
            self._made = os.getpid(), self._make()
        return self._made[1]

    def _insert(self, key: Key, item: Item) -> Mapping[str, Any]:
        return insert_statement(self.name, _with_key(key, item))

    def _execute_chunk(
        self, items: Mapping[Key, Item], statement: Statement
    ) -> dict[Key, bool | ServiceError]:
        statements = [statement(key, item) for key, item in items.items()]
        action = f"write {len(items)} items"
        answer = self._ask("batch_execute_statement", action, table=False, Statements=statements)
        count_statements(answer["Responses"])
        return {
            key: statement_answer(each.get("Error"), f"write {key} in table {self.name}")
            for key, each in zip(items, answer["Responses"], strict=True)
        }

    def _ask(self, operation: str, action: str, table: bool = True, **fields: Any) -> Any:
        if table:
            fields["TableName"] = self.name
        try:
            return getattr(self._client(), operation)(**fields)
        except VENDOR_ERRORS as error:
            if isinstance(error, ClientError) and error_code(error) == "ConditionalCheckFailedException":
                raise _ConditionFailed(load_item(old_item(error) or {})) from error
            raise table_error(error, f"{action} in table {self.name}") from error


class _ConditionFailed(Exception):  # noqa: N818 - an answer, not an error
    """The item does not meet the condition of a conditional write."""

    def __init__(self, item: Item) -> None:
        super().__init__("the condition does not hold")
        self.item = item


def _tries(action: str) -> Iterator[None]:
    """Yield once a try, with growing, jittered waits; raise when a batch stays unprocessed."""
    for attempt in range(BATCH_TRIES):
        yield
        time.sleep(random.uniform(0, BATCH_WAIT * 2**attempt))  # noqa: S311 - jitter is no secret
    raise ServiceUnavailableError(f"Could not {action}: DynamoDB left some unprocessed {BATCH_TRIES} times")


def _key(key: Key) -> dict[str, Any]:
    return {"pk": {"S": key[0]}, "sk": {"S": key[1]}}


def _with_key(key: Key, item: Item) -> dict[str, Any]:
    return {**_key(key), **dump_item(item)}


def _write(key: Key, item: Item | None) -> dict[str, Any]:
    if item is None:
        return {"DeleteRequest": {"Key": _key(key)}}
    return {"PutRequest": {"Item": _with_key(key, item)}}
