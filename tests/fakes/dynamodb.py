"""An in-memory DynamoDB client: the requests pipeline.jobs sends, and the expressions it writes, no more."""

# ruff: noqa: N803 - the names of fields are DynamoDB's

import copy
import re
from collections.abc import Mapping, MutableMapping
from typing import Any

from botocore.exceptions import ClientError

Raw = dict[str, Any]

_TOKEN = re.compile(r"\s*(AND|OR|NOT|contains|attribute_exists|attribute_not_exists|size|[#:]\w+|[()=<>,])")


class FakeDynamoDB:
    """One table's items in a dict; the method names and fields are those of boto3's client."""

    def __init__(self) -> None:
        self.items: MutableMapping[tuple[str, str], Raw] = {}
        #: The indexes that there are, and the partition key of each.
        self.indexes = {"jobs-by-time": "ipk", "jobs-by-entity": "epk"}

    def get_item(self, *, Key: Raw, **fields: Any) -> Raw:
        """One item; a projection is not applied, as nothing may depend on attributes being left out."""
        item = self.items.get(_key(Key))
        return {"Item": copy.deepcopy(item)} if item else {}

    def put_item(self, *, Item: Raw, ConditionExpression: str, **fields: Any) -> Raw:
        """Put an item if the condition holds."""
        self._check(self.items.get(_key(Item)), ConditionExpression, fields)
        self.items[_key(Item)] = copy.deepcopy(Item)
        return {}

    def update_item(self, *, Key: Raw, UpdateExpression: str, **fields: Any) -> Raw:
        """SET, ADD to a set or number, and REMOVE, if the condition holds."""
        old = self.items.get(_key(Key))
        if "ConditionExpression" in fields:
            self._check(old, fields["ConditionExpression"], fields)
        item = copy.deepcopy(old) if old else dict(Key)
        for verb, clause in re.findall(r"(SET|ADD|REMOVE) (.*?)(?= SET | ADD | REMOVE |$)", UpdateExpression):
            for part in clause.split(", "):
                name, *rest = part.replace(" = ", " ").split()
                attribute = fields["ExpressionAttributeNames"][name]
                value = fields["ExpressionAttributeValues"][rest[0]] if rest else None
                _apply(verb, item, attribute, value)
        self.items[_key(Key)] = item
        return {"Attributes": copy.deepcopy(item)}

    def batch_get_item(self, *, RequestItems: Raw) -> Raw:
        """Items by key; refuses a key given twice or too long, as DynamoDB does."""
        ((table, request),) = RequestItems.items()
        keys = [_key(key) for key in request["Keys"]]
        _refuse_duplicates(keys)
        _refuse_long(keys)
        found = [copy.deepcopy(self.items[key]) for key in keys if key in self.items]
        return {"Responses": {table: found}, "UnprocessedKeys": {}}

    def batch_write_item(self, *, RequestItems: Raw) -> Raw:
        """Puts and deletes; refuses a key given twice, as DynamoDB does."""
        ((_, requests),) = RequestItems.items()
        puts = [request["PutRequest"]["Item"] for request in requests if "PutRequest" in request]
        deletes = [request["DeleteRequest"]["Key"] for request in requests if "DeleteRequest" in request]
        _refuse_duplicates([_key(item) for item in puts + deletes])
        self.items.update({_key(item): copy.deepcopy(item) for item in puts})
        for key in deletes:
            self.items.pop(_key(key), None)
        return {"UnprocessedItems": {}}

    def batch_execute_statement(self, *, Statements: list[Raw]) -> Raw:
        """INSERT: an item, unless there is one. UPDATE: attributes of an item that lacks one."""
        answers = {"INSERT": self._insert, "UPDATE": self._set}
        _refuse_duplicates([_statement_key(each) for each in Statements])
        return {
            "Responses": [
                answers[each["Statement"][:6]](each["Statement"], each["Parameters"]) for each in Statements
            ]
        }

    def _insert(self, statement: str, parameters: list[Raw]) -> Raw:
        item = dict(zip(re.findall(r"'(\w+)': \?", statement), parameters, strict=True))
        if _key(item) in self.items:
            return {"Error": {"Code": "DuplicateItem", "Message": "Duplicate primary key exists in table"}}
        self.items[_key(item)] = copy.deepcopy(item)
        return {}

    def _set(self, statement: str, parameters: list[Raw]) -> Raw:
        put, condition = statement.split(" WHERE ")
        key = (*(value["S"] for value in parameters[-2:]),)
        (unless,) = re.findall(r'"(\w+)" IS MISSING', condition)
        if unless in self.items.get(key, {unless: None}):
            return {"Error": {"Code": "ConditionalCheckFailed", "Message": "The conditional request failed"}}
        names = re.findall(r'"(\w+)" = \?', put)
        self.items[key] |= copy.deepcopy(dict(zip(names, parameters[:-2], strict=True)))
        return {}

    def query(self, *, KeyConditionExpression: str, ExpressionAttributeValues: Raw, **fields: Any) -> Raw:
        """The items under one pk, between two sort keys when those are given."""
        fields["ExpressionAttributeValues"] = ExpressionAttributeValues
        named = re.findall(r":\w+", KeyConditionExpression)
        pk, *between = [ExpressionAttributeValues[name]["S"] for name in named]
        if "IndexName" in fields:
            _refuse_index(fields["IndexName"], self.indexes)
            return self._query_index(pk, between, **fields)
        low, high = between or ("", "\U0010ffff")
        keys = sorted(key for key in self.items if key[0] == pk and low <= key[1] <= high)
        return {"Items": [copy.deepcopy(self.items[key]) for key in keys]}

    def _query_index(
        self,
        pk: str,
        between: list[str],
        *,
        IndexName: str,
        Limit: int,
        ScanIndexForward: bool = True,
        FilterExpression: str = "",
        **fields: Any,
    ) -> Raw:
        """The items of one partition of the index: all, those before a cursor, or those between two."""
        low, high = between if len(between) == 2 else ("", between[0] if between else "\U0010ffff")
        found = [
            copy.deepcopy(item)
            for item in self.items.values()
            if item.get(self.indexes[IndexName]) == {"S": pk} and low <= item["isk"]["S"] <= high
        ]
        if len(between) == 1:
            found = [item for item in found if item["isk"]["S"] != high]
        found.sort(key=lambda item: str(item["isk"]["S"]), reverse=not ScanIndexForward)
        more = {"LastEvaluatedKey": found[Limit - 1]} if len(found) > Limit else {}
        kept = [
            item for item in found[:Limit] if not FilterExpression or _holds(FilterExpression, item, fields)
        ]
        return {"Items": kept, **more}

    def _check(self, item: Raw | None, condition: str, fields: Mapping[str, Any]) -> None:
        if not _Condition(condition, item or {}, fields).holds():
            answer = {"Error": {"Code": "ConditionalCheckFailedException", "Message": condition}}
            raise ClientError(answer | ({"Item": copy.deepcopy(item)} if item else {}), "Update")  # type: ignore[arg-type]


class _Condition:
    """A condition expression over one item: OR of AND of comparisons, with brackets."""

    def __init__(self, text: str, item: Raw, fields: Mapping[str, Any]) -> None:
        self._tokens = _TOKEN.findall(text)
        self._item = item
        self._names = fields.get("ExpressionAttributeNames", {})
        self._values = fields.get("ExpressionAttributeValues", {})

    def holds(self) -> bool:
        result = self._and()
        while self._take("OR"):
            right = self._and()
            result = result or right
        return result

    def _and(self) -> bool:
        result = self._term()
        while self._take("AND"):
            right = self._term()
            result = result and right
        return result

    def _term(self) -> bool:
        token = self._tokens.pop(0)
        left: Any = None
        if token == "(":
            result = self.holds()
            self._tokens.pop(0)
            return result
        if token == "NOT":
            return not self._term()
        if token == "contains":
            return self._contains()
        if token in ("attribute_exists", "attribute_not_exists"):
            return bool(self._argument() is not None) == bool(token == "attribute_exists")
        if token == "size":
            value = self._argument()
            left = None if value is None else float(len(next(iter(value.values()))))
        else:
            left = _plain(self._item.get(self._names[token]))
        operator, right = self._tokens.pop(0), _plain(self._values[self._tokens.pop(0)])
        if left is None:
            return False
        return bool({"=": left == right, "<": left < right, ">": left > right}[operator])

    def _contains(self) -> bool:
        _, name, _, value, _ = (self._tokens.pop(0) for _ in range(5))
        members = self._item.get(self._names[name], {"NS": []})
        return self._values[value]["N"] in members["NS"]

    def _argument(self) -> Any:
        _, name, _ = (self._tokens.pop(0) for _ in range(3))
        return self._item.get(self._names[name])

    def _take(self, token: str) -> bool:
        if self._tokens[:1] == [token]:
            self._tokens.pop(0)
            return True
        return False


def _apply(verb: str, item: Raw, attribute: str, value: Any) -> None:
    if verb == "SET":
        item[attribute] = copy.deepcopy(value)
    elif verb == "REMOVE":
        item.pop(attribute, None)
    elif "N" in value:
        item[attribute] = {"N": str(int(item.get(attribute, {"N": "0"})["N"]) + int(value["N"]))}
    else:
        ((kind, members),) = value.items()
        item[attribute] = {kind: sorted({*item.get(attribute, {}).get(kind, ()), *members})}


def _plain(value: Raw | None) -> Any:
    if value is None:
        return None
    return float(value["N"]) if "N" in value else str(value["S"])


def _key(item: Mapping[str, Any]) -> tuple[str, str]:
    return item["pk"]["S"], item["sk"]["S"]


def _statement_key(statement: Raw) -> tuple[str, str]:
    insert, values = statement["Statement"].startswith("INSERT"), statement["Parameters"]
    pk, sk = values[:2] if insert else values[-2:]
    return pk["S"], sk["S"]


def _refuse_duplicates(keys: list[tuple[str, str]]) -> None:
    if len(set(keys)) < len(keys):
        answer = {"Error": {"Code": "ValidationException", "Message": "Provided list contains duplicates"}}
        raise ClientError(answer, "Batch")  # type: ignore[arg-type]


def _holds(condition: str, item: Raw, fields: Mapping[str, Any]) -> bool:
    return _Condition(condition, item, fields).holds()


def _refuse_index(name: str, known: Mapping[str, str]) -> None:
    if name not in known:
        message = f"The table does not have the specified index: {name}"
        raise ClientError({"Error": {"Code": "ValidationException", "Message": message}}, "Query")


def _refuse_long(keys: list[tuple[str, str]]) -> None:
    if any(len(pk.encode()) > 2048 or len(sk.encode()) > 1024 for pk, sk in keys):
        message = "One or more parameter values were invalid: Size of hashkey has exceeded the maximum size"
        raise ClientError({"Error": {"Code": "ValidationException", "Message": message}}, "Batch")
