"""The schema of the table: pk and sk, a sparse index or two, TTL on ``exp``.

A table is made with on-demand billing. Provisioned capacity, and more warm throughput than is wanted, are no
difference.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

from pipeline.aws.errors import VENDOR_ERRORS
from pipeline.errors import ServiceError, ServiceUnavailableError
from pipeline.jobs.dynamodb import dynamodb_client
from pipeline.jobs.errors import table_error
from pipeline.jobs.table import ENTITY_INDEX, INDEX, PROJECTED

#: The attribute with the moment (seconds since the epoch) after which DynamoDB deletes an item.
TTL = "exp"

#: Seconds a new table may take to become active; AWS needs about 10.
ACTIVE_WITHIN = 120

#: DynamoDB's answer of an emulator that does not know an operation, and of AWS about a table too new for it.
_UNKNOWN, _NOT_YET = "UnknownOperationException", "ContinuousBackupsUnavailableException"

_NO_RECOVERY = "point-in-time recovery is off: what is deleted or overwritten is gone"

_KEY = [{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}]
_INDEX: dict[str, Any] = {
    "IndexName": INDEX,
    "KeySchema": [
        {"AttributeName": "ipk", "KeyType": "HASH"},
        {"AttributeName": "isk", "KeyType": "RANGE"},
    ],
    "Projection": {"ProjectionType": "INCLUDE", "NonKeyAttributes": list(PROJECTED)},
}
_ENTITY_INDEX: dict[str, Any] = {
    "IndexName": ENTITY_INDEX,
    "KeySchema": [
        {"AttributeName": "epk", "KeyType": "HASH"},
        {"AttributeName": "isk", "KeyType": "RANGE"},
    ],
    "Projection": {"ProjectionType": "KEYS_ONLY"},
}


@dataclass(frozen=True, kw_only=True)
class WriteCapacity:
    """The write units a second that a table and its index take at once."""

    #: Whether the capacity is provisioned; else it is on demand and grows with use.
    provisioned: bool
    table: int
    index: int
    #: Whether DynamoDB is raising what they are warm for.
    rising: bool


@dataclass(frozen=True, kw_only=True)
class TableReport:
    """The state in which a table was found, and the changes made to it."""

    #: The table.
    name: str
    outcome: Literal["missing", "made", "present", "differs", "changed"]
    #: The differences from what this project needs ("differs"), or those that were mended ("changed").
    differences: tuple[str, ...] = ()
    #: The differences with which no job can be recorded or listed, each with its mend.
    faults: tuple[str, ...] = ()
    #: What table and index take at once; None where it is not told: no table, or an emulator.
    write_capacity: WriteCapacity | None = None


def table_definition(name: str, warm_writes: int | None = None, *, by_entity: bool = False) -> dict[str, Any]:
    """Return the request of CreateTable; time to live (``TTL``) is set after it.

    ``warm_writes``: the write units a second that table and index take at once; None: DynamoDB's default.
    ``by_entity``: with the index by entity.
    """
    indexes = _indexes(by_entity)
    return {
        "TableName": name,
        "BillingMode": "PAY_PER_REQUEST",
        "KeySchema": _KEY,
        "AttributeDefinitions": _attributes(indexes),
        "GlobalSecondaryIndexes": [index | _warm(warm_writes) for index in indexes],
        **_warm(warm_writes),
    }


def _indexes(by_entity: bool) -> list[dict[str, Any]]:
    return [_INDEX, _ENTITY_INDEX] if by_entity else [_INDEX]


def _attributes(indexes: Iterable[dict[str, Any]]) -> list[dict[str, str]]:
    """Return the definitions of the attributes that are keys; DynamoDB takes no others."""
    schemas = [_KEY, *(index["KeySchema"] for index in indexes)]
    names = dict.fromkeys(part["AttributeName"] for schema in schemas for part in schema)
    return [{"AttributeName": name, "AttributeType": "S"} for name in names]


def _warm(writes: int | None) -> dict[str, Any]:
    return {"WarmThroughput": {"WriteUnitsPerSecond": writes}} if writes else {}


class Schema:
    """The table's definition: compared with the table in DynamoDB, and applied to it."""

    def __init__(
        self,
        name: str,
        key: str | None = None,
        warm_writes: int | None = None,
        *,
        by_entity: bool = False,
    ) -> None:
        """``key``: the ARN of the KMS key that encrypts the table; None: the key of DynamoDB itself.

        ``warm_writes``: the write units a second that table and index must take at once, at least.
        ``by_entity``: whether it must have the index by entity. One that is there anyway is no difference.
        """
        self._by_entity = by_entity
        self._name = name
        self._key = key
        self._warm_writes = warm_writes

    def inspect(self) -> TableReport:
        """Report what is there and what differs; change nothing.

        Recovery is left out: a start and a health check need not ask for it (``recovers``).
        """
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
            write_capacity=_write_capacity_of(table),
        )

    def provision(self, update: bool = False) -> TableReport:
        """Make the table when it is missing; change what differs only with ``update``."""
        report = self._with_recovery(self.inspect())
        if report.outcome == "missing":
            self._make()
            return TableReport(name=self._name, outcome="made")
        if report.outcome == "differs" and update:
            self._change()
            left = self._with_recovery(self.inspect())
            return (
                left
                if left.differences
                else TableReport(name=self._name, outcome="changed", differences=report.differences)
            )
        return report

    def recovers(self) -> bool | None:
        """Return whether point-in-time recovery is on; None from an emulator that does not know it."""
        try:
            answer = self._ask("describe_continuous_backups", TableName=self._name)
        except ServiceError as error:
            if _UNKNOWN in str(error):
                return None
            raise
        recovery = answer["ContinuousBackupsDescription"].get("PointInTimeRecoveryDescription", {})
        return bool(recovery.get("PointInTimeRecoveryStatus") == "ENABLED")

    def _with_recovery(self, report: TableReport) -> TableReport:
        if report.outcome == "missing" or self.recovers() is not False:
            return report
        return replace(report, outcome="differs", differences=(*report.differences, _NO_RECOVERY))

    def _differences(self, table: dict[str, Any]) -> list[str]:
        """Return the differences with which the table still works."""
        found = []
        index = _index_of(table, INDEX)
        if index and set(index["Projection"].get("NonKeyAttributes", ())) != set(PROJECTED):
            projected = ", ".join(PROJECTED)
            found.append(f"index {INDEX} does not project just {projected}: delete it, and provision again")
        if not self._expires():
            found.append(f"time to live is not on for {TTL}: the items of old jobs would stay for ever")
        if not self._has_key(table):
            found.append(f"it is not encrypted with {self._key}")
        if self._by_entity and _index_of(table, ENTITY_INDEX) is None:
            found.append(f'it has no index {ENTITY_INDEX}: "pipeline provision --update" makes it')
        indexes = ((f"index {name}", _index_of(table, name) or {}) for name in self._index_names)
        for name, described in (("it", table), *indexes):
            if self._is_cold(described):
                found.append(
                    f"{name} is warm for {_warm_writes_of(described)} write units a second, "
                    f"DYNAMODB_WARM_WRITES is {self._warm_writes}"
                )
        return found

    def _make(self) -> None:
        try:
            definition = table_definition(self._name, self._warm_writes, by_entity=self._by_entity)
            self._ask("create_table", **definition, **self._encryption())
        except ServiceUnavailableError as error:
            # Another process makes the same table at this moment.
            if "ResourceInUseException" not in str(error):
                raise
        self._await(lambda table: table["TableStatus"] == "ACTIVE")
        self._expire()
        self._recover()

    def _change(self) -> None:
        table = self._describe() or {}
        if _index_of(table, INDEX) is None:
            self._make_index(_INDEX, table)
            self._await(lambda table: (_index_of(table, INDEX) or {}).get("IndexStatus") == "ACTIVE")
        if not self._has_key(table):
            self._ask("update_table", TableName=self._name, **self._encryption())
            self._await(lambda table: table["TableStatus"] == "ACTIVE" and self._has_key(table))
        if not self._expires():
            self._expire()
        if self.recovers() is False:
            self._recover()
        self._raise_warm_writes()
        if self._by_entity and _index_of(table, ENTITY_INDEX) is None:
            self._await(lambda table: table["TableStatus"] == "ACTIVE")
            # DynamoDB looks through the whole table for it, which may take hours; the table works meanwhile.
            self._make_index(_ENTITY_INDEX, table)

    def _make_index(self, index: dict[str, Any], table: dict[str, Any]) -> None:
        self._ask(
            "update_table",
            TableName=self._name,
            AttributeDefinitions=_attributes([*_known_indexes(table), index]),
            GlobalSecondaryIndexUpdates=[
                {"Create": index | _warm(self._warm_writes) | _provisioned_as(table)}
            ],
        )

    @property
    def _index_names(self) -> list[str]:
        return [index["IndexName"] for index in _indexes(self._by_entity)]

    def _raise_warm_writes(self) -> None:
        """Raise what is too low. DynamoDB takes minutes to hours for it, while the table works as before."""
        table, warm = self._describe() or {}, _warm(self._warm_writes)
        fields = warm if self._is_cold(table) else {}
        cold = [name for name in self._index_names if self._is_cold(_index_of(table, name) or {})]
        if cold:
            updates = [{"Update": {"IndexName": name, **warm}} for name in cold]
            fields = {**fields, "GlobalSecondaryIndexUpdates": updates}
        if fields:
            self._ask("update_table", TableName=self._name, **fields)

    def _is_cold(self, described: dict[str, Any]) -> bool:
        """Whether a table or index is warm for less than is wanted, and does not rise already."""
        writes = _warm_writes_of(described)
        return 0 < writes < (self._warm_writes or 0) and not _is_rising(described)

    def _encryption(self) -> dict[str, Any]:
        if self._key is None:
            return {}
        return {"SSESpecification": {"Enabled": True, "SSEType": "KMS", "KMSMasterKeyId": self._key}}

    def _has_key(self, table: dict[str, Any]) -> bool:
        """Return whether the wanted key encrypts a table, if one is wanted."""
        told = table.get("SSEDescription") or {}
        return self._key is None or told.get("KMSMasterKeyArn") == self._key

    def _recover(self) -> None:
        """Switch on point-in-time recovery. AWS takes a moment to accept it for a new table."""
        deadline = time.monotonic() + ACTIVE_WITHIN
        while True:
            try:
                self._ask(
                    "update_continuous_backups",
                    TableName=self._name,
                    PointInTimeRecoverySpecification={"PointInTimeRecoveryEnabled": True},
                )
            except ServiceError as error:
                if _UNKNOWN in str(error):
                    return
                if _NOT_YET not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(1)
            else:
                return

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
            return getattr(dynamodb_client(), operation)(**fields)
        except VENDOR_ERRORS as error:
            raise table_error(error, f"{operation.replace('_', ' ')} {self._name}") from error


def _faults(table: dict[str, Any]) -> list[str]:
    found = []
    if table["KeySchema"] != _KEY:
        found.append("its key is not pk, sk: it cannot be changed, name another table in DYNAMODB_TABLE")
    index = _index_of(table, INDEX)
    if index is None:
        found.append(f'it has no index {INDEX}: "pipeline provision --update" makes it')
    elif index["KeySchema"] != _INDEX["KeySchema"]:
        found.append(f"the key of index {INDEX} is not ipk, isk: delete it, and provision again")
    return found


def _is_provisioned(table: dict[str, Any]) -> bool:
    # A table that was never on demand may have no summary.
    mode = table.get("BillingModeSummary", {}).get("BillingMode")
    return mode == "PROVISIONED" or (mode is None and _provisioned_writes_of(table) > 0)


def _write_capacity_of(table: dict[str, Any]) -> WriteCapacity | None:
    index = _index_of(table, INDEX) or {}
    provisioned = _is_provisioned(table)
    told = _provisioned_writes_of if provisioned else _warm_writes_of
    table_units, index_units = told(table), told(index)
    if not (table_units and index_units):
        return None
    return WriteCapacity(
        provisioned=provisioned,
        table=table_units,
        index=index_units,
        rising=any(map(_is_rising, (table, index))),
    )


def _provisioned_as(table: dict[str, Any]) -> dict[str, Any]:
    """Return the capacity of a new index: that of its table, which must be provisioned if the table's is."""
    if not _is_provisioned(table):
        return {}
    units = ("ReadCapacityUnits", "WriteCapacityUnits")
    return {"ProvisionedThroughput": {each: table["ProvisionedThroughput"][each] for each in units}}


def _provisioned_writes_of(described: dict[str, Any]) -> int:
    return int(described.get("ProvisionedThroughput", {}).get("WriteCapacityUnits", 0))


def _warm_writes_of(described: dict[str, Any]) -> int:
    """Return the write units a second that a table or index is warm for; 0 from an emulator: not told."""
    return int(described.get("WarmThroughput", {}).get("WriteUnitsPerSecond", 0))


def _is_rising(described: dict[str, Any]) -> bool:
    return bool(described.get("WarmThroughput", {}).get("Status") == "UPDATING")


def _index_of(table: dict[str, Any], name: str) -> dict[str, Any] | None:
    indexes = table.get("GlobalSecondaryIndexes", ())
    return next((index for index in indexes if index["IndexName"] == name), None)


def _known_indexes(table: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the definitions of those of our indexes that a table has."""
    return [index for index in _indexes(by_entity=True) if _index_of(table, index["IndexName"])]
