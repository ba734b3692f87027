"""The table's indexes and write capacity, as AWS tells and takes them; emulators do not tell all of it."""

from typing import Any

import botocore.session
import pytest
from botocore.validate import ParamValidator

from pipeline.jobs import WriteCapacity
from pipeline.jobs import schema as schema_module
from pipeline.jobs.schema import Schema, table_definition
from pipeline.jobs.table import ENTITY_INDEX, INDEX

MODEL = botocore.session.get_session().get_service_model("dynamodb")
NEW, TTL = 4000, {"TimeToLiveStatus": "ENABLED", "AttributeName": "exp"}
RECOVERS = {"PointInTimeRecoveryDescription": {"PointInTimeRecoveryStatus": "ENABLED"}}


class FakeTables:
    """A client of one table that is active at once: AWS's answers to requests that botocore takes."""

    def __init__(self) -> None:
        self.table: dict[str, Any] = {}
        self.updates: list[dict[str, Any]] = []

    def __getattr__(self, operation: str) -> Any:
        name = "".join(word.capitalize() for word in operation.split("_"))

        def call(**fields: Any) -> Any:
            shape = MODEL.operation_model(name).input_shape
            assert shape
            report = ParamValidator().validate(fields, shape)
            assert not report.has_errors(), report.generate_report()
            return getattr(self, f"_{operation}")(**fields)

        return call

    def _create_table(self, BillingMode: str, **fields: Any) -> None:  # noqa: N803 - as DynamoDB names it
        indexes = fields.pop("GlobalSecondaryIndexes")
        made = {"BillingModeSummary": {"BillingMode": BillingMode}, "TableStatus": "ACTIVE"}
        active = [{**index, **_warmth(index), "IndexStatus": "ACTIVE"} for index in indexes]
        self.table = {**fields, **_warmth(fields), **made, "GlobalSecondaryIndexes": active}

    def _describe_table(self, **_: Any) -> Any:
        return {"Table": self.table}

    def _describe_time_to_live(self, **_: Any) -> Any:
        return {"TimeToLiveDescription": TTL}

    def _describe_continuous_backups(self, **_: Any) -> Any:
        return {"ContinuousBackupsDescription": RECOVERS}

    def _update_continuous_backups(self, **_: Any) -> None: ...

    def _update_table(self, **fields: Any) -> None:
        """Raising is under way for long; until then the old value is told."""
        self.updates.append(fields)
        for each in fields.get("GlobalSecondaryIndexUpdates", ()):
            if "Create" in each:
                self.table["GlobalSecondaryIndexes"] += [{**each["Create"], "IndexStatus": "ACTIVE"}]
        for described in (self.table, *self.table["GlobalSecondaryIndexes"]):
            if "WarmThroughput" in described:
                described["WarmThroughput"]["Status"] = "UPDATING"

    def raised(self, writes: int) -> None:
        """What was asked for is there."""
        for described in (self.table, *self.table["GlobalSecondaryIndexes"]):
            described["WarmThroughput"] = {"WriteUnitsPerSecond": writes, "Status": "ACTIVE"}


def _warmth(fields: dict[str, Any]) -> dict[str, Any]:
    writes = fields.get("WarmThroughput", {}).get("WriteUnitsPerSecond", NEW)
    return {"WarmThroughput": {"WriteUnitsPerSecond": writes, "Status": "ACTIVE"}}


@pytest.fixture(name="aws")
def aws_fixture(monkeypatch: pytest.MonkeyPatch) -> FakeTables:
    """DynamoDB, without a table."""
    aws = FakeTables()
    monkeypatch.setattr(schema_module, "dynamodb_client", lambda: aws)
    return aws


def made(aws: FakeTables, warm_writes: int | None = None) -> Schema:
    """Return a table's schema after the table was made."""
    aws._create_table(**table_definition("jobs", warm_writes))
    return Schema("jobs", warm_writes=warm_writes)


def test_a_new_table_is_warm_as_the_setting_says(aws: FakeTables) -> None:
    """Table and index, for as many writes; without the setting DynamoDB's default."""
    assert made(aws).inspect().write_capacity == WriteCapacity(
        provisioned=False, table=NEW, index=NEW, rising=False
    )
    schema = made(aws, 20_000)
    found = schema.inspect().write_capacity
    assert found == WriteCapacity(provisioned=False, table=20_000, index=20_000, rising=False)
    assert schema.provision().outcome == "present"


def test_too_little_is_raised_with_update_only(aws: FakeTables) -> None:
    """In one request for table and index; while DynamoDB raises it nothing differs, and nothing is asked."""
    made(aws)
    schema = Schema("jobs", warm_writes=20_000)
    report = schema.provision()
    assert report.differences == (
        "it is warm for 4000 write units a second, DYNAMODB_WARM_WRITES is 20000",
        f"index {INDEX} is warm for 4000 write units a second, DYNAMODB_WARM_WRITES is 20000",
    )
    assert (report.faults, aws.updates) == ((), [])
    assert schema.provision(update=True).outcome == "changed"
    warm = {"WarmThroughput": {"WriteUnitsPerSecond": 20_000}}
    update = {"Update": {"IndexName": INDEX, **warm}}
    assert aws.updates == [{"TableName": "jobs", **warm, "GlobalSecondaryIndexUpdates": [update]}]
    capacity = schema.inspect().write_capacity
    assert capacity
    assert capacity.rising
    assert schema.provision(update=True).outcome == "present"
    aws.raised(20_000)
    assert schema.provision(update=True).outcome == "present"
    assert len(aws.updates) == 1


def test_the_index_by_entity_is_made_where_a_setting_asks_for_it(aws: FakeTables) -> None:
    """With a new table, or with --update: no fault until then, as lists do without it."""
    made(aws)
    schema = Schema("jobs", warm_writes=NEW, by_entity=True)
    missing = f'it has no index {ENTITY_INDEX}: "pipeline provision --update" makes it'
    report = schema.provision()
    assert (report.differences, report.faults) == ((missing,), ())
    assert schema.provision(update=True).outcome == "changed"
    (update,) = aws.updates
    (create,) = (each["Create"] for each in update["GlobalSecondaryIndexUpdates"])
    assert create["WarmThroughput"]["WriteUnitsPerSecond"] == NEW
    keys = [part["AttributeName"] for part in create["KeySchema"]]
    assert keys == ["epk", "isk"]
    assert {each["AttributeName"] for each in update["AttributeDefinitions"]} == {
        *("pk", "sk", "ipk", "isk", "epk")
    }
    assert schema.provision(update=True).outcome == "present"
    aws._create_table(**table_definition("jobs", by_entity=True))
    assert [each["IndexName"] for each in aws.table["GlobalSecondaryIndexes"]] == [INDEX, ENTITY_INDEX]
    assert {each["AttributeName"] for each in aws.table["AttributeDefinitions"]} == {
        *("pk", "sk", "ipk", "isk", "epk")
    }
    assert schema.provision().outcome == "present"


def test_an_index_by_entity_that_nobody_asks_for_stays(aws: FakeTables) -> None:
    """It may be another service's that shares the table; it costs nothing without entries."""
    aws._create_table(**table_definition("jobs", by_entity=True))
    assert Schema("jobs").provision(update=True).outcome == "present"
    assert aws.updates == []


def test_both_indexes_are_raised_in_one_request(aws: FakeTables) -> None:
    """Where they are warm for less than the setting says."""
    aws._create_table(**table_definition("jobs", by_entity=True))
    assert Schema("jobs", warm_writes=20_000, by_entity=True).provision(update=True).outcome == "changed"
    (update,) = aws.updates
    raised = [each["Update"]["IndexName"] for each in update["GlobalSecondaryIndexUpdates"]]
    assert raised == [INDEX, ENTITY_INDEX]


@pytest.mark.parametrize("wanted", [None, 5_000])
def test_more_than_is_wanted_is_no_difference(aws: FakeTables, wanted: int | None) -> None:
    """A table grown by use, or made warmer by hand: --update takes nothing."""
    made(aws, 40_000)
    schema = Schema("jobs", warm_writes=wanted)
    assert schema.provision(update=True).outcome == "present"
    assert aws.updates == []


def test_only_what_is_too_low_is_raised(aws: FakeTables) -> None:
    """DynamoDB refuses an update that changes nothing."""
    made(aws)
    aws.table["WarmThroughput"]["WriteUnitsPerSecond"] = 20_000
    assert Schema("jobs", warm_writes=20_000).provision(update=True).outcome == "changed"
    (update,) = aws.updates
    assert "WarmThroughput" not in update
    assert len(update["GlobalSecondaryIndexUpdates"]) == 1


def test_provisioned_capacity_is_no_difference(aws: FakeTables) -> None:
    """A table that is provisioned stays so; its capacity counts, not what it is warm for."""
    schema = made(aws)
    for described, units in ((aws.table, 500), (aws.table["GlobalSecondaryIndexes"][0], 90)):
        described["ProvisionedThroughput"] = {"ReadCapacityUnits": 50, "WriteCapacityUnits": units}
    aws.table["BillingModeSummary"]["BillingMode"] = "PROVISIONED"
    assert schema.provision(update=True).outcome == "present"
    assert aws.updates == []
    found = schema.inspect().write_capacity
    assert found == WriteCapacity(provisioned=True, table=500, index=90, rising=False)
    del aws.table["BillingModeSummary"]  # as of a table that never was on demand
    assert schema.inspect().write_capacity == found


def test_the_index_of_a_provisioned_table_is_provisioned(aws: FakeTables) -> None:
    """DynamoDB refuses one without a capacity; it gets the table's."""
    schema = made(aws)
    capacity = {"ReadCapacityUnits": 50, "WriteCapacityUnits": 500}
    aws.table |= {"ProvisionedThroughput": {**capacity, "NumberOfDecreasesToday": 0}}
    aws.table["BillingModeSummary"]["BillingMode"] = "PROVISIONED"
    aws.table["GlobalSecondaryIndexes"] = []
    assert schema.inspect().write_capacity is None
    assert schema.provision(update=True).outcome == "changed"
    (update,) = aws.updates
    assert update["GlobalSecondaryIndexUpdates"][0]["Create"]["ProvisionedThroughput"] == capacity


@pytest.mark.parametrize("told", [{}, {"WarmThroughput": {"WriteUnitsPerSecond": 0, "Status": "ACTIVE"}}])
def test_what_an_emulator_does_not_tell_is_not_judged(aws: FakeTables, told: dict[str, Any]) -> None:
    """DynamoDB Local tells nothing, ministack zero of the table and nothing of the index."""
    made(aws)
    for described in (aws.table, *aws.table["GlobalSecondaryIndexes"]):
        described.pop("WarmThroughput")
    aws.table |= told
    schema = Schema("jobs", warm_writes=20_000)
    assert schema.provision(update=True).outcome == "present"
    assert schema.inspect().write_capacity is None
