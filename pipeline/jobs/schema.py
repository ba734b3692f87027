"""The table's own shape: on-demand billing, pk and sk, one sparse index, TTL on ``exp``."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pipeline.aws import VENDOR_ERRORS
from pipeline.errors import ServiceError, ServiceUnavailableError
from pipeline.jobs.client import dynamodb_client
from pipeline.jobs.errors import table_error
from pipeline.jobs.table import INDEX, PROJECTED

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

#: The attribute with the moment (seconds since the epoch) after which DynamoDB deletes an item.
TTL = "exp"

#: Seconds a new table may take to become active; AWS needs about 10.
ACTIVE_WITHIN = 120

_KEY = [{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}]
_INDEX: dict[str, Any] = {
    "IndexName": INDEX,
    "KeySchema": [
        {"AttributeName": "ipk", "KeyType": "HASH"},
        {"AttributeName": "isk", "KeyType": "RANGE"},
    ],
    "Projection": {"ProjectionType": "INCLUDE", "NonKeyAttributes": list(PROJECTED)},
}
_ATTRIBUTES = [{"AttributeName": name, "AttributeType": "S"} for name in ("pk", "sk", "ipk", "isk")]


@dataclass(frozen=True, kw_only=True)
class TableReport:
    """What was found, and what was done about it."""

    #: The table.
    name: str
    outcome: Literal["missing", "made", "present", "differs", "changed"]
    #: What differs from what this project needs ("differs"), or did ("changed").
    differences: tuple[str, ...] = ()
    #: Those of the differences with which no job can be recorded or listed, each with its mend.
    faults: tuple[str, ...] = ()


def table_definition(name: str) -> dict[str, Any]:
    """What CreateTable is asked for; time to live (``TTL``) is set after it."""
    return {
        "TableName": name,
        "BillingMode": "PAY_PER_REQUEST",
        "KeySchema": _KEY,
        "AttributeDefinitions": _ATTRIBUTES,
        "GlobalSecondaryIndexes": [_INDEX],
    }


def inspect_table(name: str) -> TableReport:
    """What is there and what differs, changing nothing."""
    return _Schema(name).inspect()


def provision_table(name: str, update: bool) -> TableReport:
    """Make the table when it is missing; change what differs only with ``update``."""
    return _Schema(name).provision(update)


class _Schema:
    def __init__(self, name: str) -> None:
        self._name = name
        self._client: DynamoDBClient = dynamodb_client()

    def inspect(self) -> TableReport:
        table = self._describe()
        if table is None:
            return TableReport(name=self._name, outcome="missing")
        faults = tuple(_faults(table))
        differences = (*faults, *self._differences(table))
        return TableReport(
            name=self._name,
            outcome="differs" if differences else "present",
            differences=differences,
            faults=faults,
        )

    def provision(self, update: bool) -> TableReport:
        report = self.inspect()
        if report.outcome == "missing":
            self._make()
            return TableReport(name=self._name, outcome="made")
        if report.outcome == "differs" and update:
            self._change()
            left = self.inspect()
            return (
                left
                if left.differences
                else TableReport(name=self._name, outcome="changed", differences=report.differences)
            )
        return report

    def _differences(self, table: dict[str, Any]) -> list[str]:
        """What is not as it should be, and still works."""
        found = []
        if table.get("BillingModeSummary", {}).get("BillingMode") != "PAY_PER_REQUEST":
            found.append("billing is not on demand (PAY_PER_REQUEST)")
        index = _index_of(table)
        if index and set(index["Projection"].get("NonKeyAttributes", ())) != set(PROJECTED):
            projected = ", ".join(PROJECTED)
            found.append(f"index {INDEX} does not project just {projected}: delete it, and provision again")
        if not self._expires():
            found.append(f"time to live is not on for {TTL}: the items of old jobs would stay for ever")
        return found

    def _make(self) -> None:
        try:
            self._ask("create_table", **table_definition(self._name))
        except ServiceUnavailableError as error:
            # Another process makes the same table at this moment.
            if "ResourceInUseException" not in str(error):
                raise
        self._await(lambda table: table["TableStatus"] == "ACTIVE")
        self._expire()

    def _change(self) -> None:
        table = self._describe() or {}
        if table.get("BillingModeSummary", {}).get("BillingMode") != "PAY_PER_REQUEST":
            self._ask("update_table", TableName=self._name, BillingMode="PAY_PER_REQUEST")
            self._await(lambda table: table["TableStatus"] == "ACTIVE")
        if _index_of(table) is None:
            self._ask(
                "update_table",
                TableName=self._name,
                AttributeDefinitions=_ATTRIBUTES,
                GlobalSecondaryIndexUpdates=[{"Create": _INDEX}],
            )
            self._await(lambda table: (_index_of(table) or {}).get("IndexStatus") == "ACTIVE")
        if not self._expires():
            self._expire()

    def _expires(self) -> bool:
        answer = self._ask("describe_time_to_live", TableName=self._name)["TimeToLiveDescription"]
        return (
            answer.get("TimeToLiveStatus") in ("ENABLED", "ENABLING") and answer.get("AttributeName") == TTL
        )

    def _expire(self) -> None:
        if not self._expires():
            self._ask(
                "update_time_to_live",
                TableName=self._name,
                TimeToLiveSpecification={"Enabled": True, "AttributeName": TTL},
            )

    def _describe(self) -> dict[str, Any] | None:
        try:
            table: dict[str, Any] = self._ask("describe_table", TableName=self._name)["Table"]
        except ServiceError as error:
            if "ResourceNotFoundException" in str(error):
                return None
            raise
        return table

    def _await(self, ready: "Callable[[dict[str, Any]], bool]") -> None:
        deadline = time.monotonic() + ACTIVE_WITHIN
        while not ready(self._describe() or {"TableStatus": "gone"}):
            if time.monotonic() > deadline:
                raise ServiceUnavailableError(
                    f"Table {self._name} is not active {ACTIVE_WITHIN} s after it was made or changed"
                )
            time.sleep(0.2)

    def _ask(self, operation: str, **fields: Any) -> Any:
        try:
            return getattr(self._client, operation)(**fields)
        except VENDOR_ERRORS as error:
            raise table_error(error, f"{operation.replace('_', ' ')} {self._name}") from error


def _faults(table: dict[str, Any]) -> list[str]:
    found = []
    if table["KeySchema"] != _KEY:
        found.append("its key is not pk, sk: it cannot be changed, name another table in DYNAMODB_TABLE")
    index = _index_of(table)
    if index is None:
        found.append(f'it has no index {INDEX}: "pipeline provision --update" makes it')
    elif index["KeySchema"] != _INDEX["KeySchema"]:
        found.append(f"the key of index {INDEX} is not ipk, isk: delete it, and provision again")
    return found


def _index_of(table: dict[str, Any]) -> dict[str, Any] | None:
    indexes = table.get("GlobalSecondaryIndexes", ())
    return next((index for index in indexes if index["IndexName"] == INDEX), None)
