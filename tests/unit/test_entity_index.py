"""The index by entity: lists with it and without it have the same jobs, and it costs nothing unless set."""

import time
from datetime import UTC, datetime
from typing import Any

import pytest

from pipeline.jobs import JobPage, JobPlan, JobState, JobStore, NewJob
from pipeline.jobs.keys import Keys, beginning_of
from pipeline.jobs.model import JobFilled
from pipeline.jobs.table import Table
from tests import builders
from tests.fakes.dynamodb import FakeDynamoDB

PLAN = JobPlan(stages={"a": ("a",)})
DAY = 86_400
NOW = beginning_of(datetime(2026, 3, 10, tzinfo=UTC).date()) + 40_000


class Queried(FakeDynamoDB):
    """A table that counts the queries of each index."""

    def __init__(self) -> None:
        super().__init__()
        self.queries: list[str] = []

    def query(self, **fields: Any) -> Any:
        """Note the index."""
        self.queries.append(fields.get("IndexName", ""))
        return super().query(**fields)


def store_of(client: FakeDynamoDB, since: str | None = "2026-03-01") -> JobStore:
    """The store of a process with this setting."""
    settings = builders.settings(dynamodb_entity_index_since=since)
    table = Table("jobs", lambda: client)  # type: ignore[arg-type,return-value]
    return JobStore(settings, table=table, clock=lambda: NOW)


def open_jobs(store: JobStore, *jobs: tuple[str, str, float]) -> None:
    """Open jobs, each with an entity and so many days old."""
    new = [
        NewJob(job_id=job_id, entity_id=entity, topic="t", plan=PLAN, submitted_at=NOW - days * DAY)
        for job_id, entity, days in jobs
    ]
    assert store.records.open(new).errors == [None] * len(new)


def end_job(store: JobStore, job_id: str) -> None:
    """Close a job that is complete."""
    job = store.records.get(job_id)
    assert job
    assert store.close([JobFilled(job=job)]) == [None]


def listed(store: JobStore, entity: str, limit: int = 50, **wanted: Any) -> list[str]:
    """The ids of all pages of an entity's jobs."""
    found: list[str] = []
    before = None
    while True:
        page: JobPage = store.listing.jobs(limit=limit, entity_id=entity, before=before, **wanted)
        found += [job.job_id for job in page.jobs]
        assert page.next is None or before is None or page.next < before
        before = page.next
        if before is None:
            return found


#: Jobs in order, newest first, on both sides of the day of the setting, open and ended.
JOBS = [(f"j{number}", "ada" if number % 3 else "bob", number * 0.7) for number in range(40)]


@pytest.mark.parametrize("limit", [1, 4, 50])
def test_a_list_by_entity_has_every_job_on_both_sides_of_the_day(limit: int) -> None:
    """Those that were opened without the setting are found by the other index."""
    client = Queried()
    store = store_of(client)
    boundary = beginning_of(datetime(2026, 3, 1, tzinfo=UTC).date())
    for job in JOBS:
        open_jobs(store_of(client, None if NOW - job[2] * DAY < boundary else "2026-03-01"), job)
    for number in range(0, 40, 4):
        end_job(store, f"j{number}")
    for entity in ("ada", "bob"):
        ids = [job_id for job_id, each, _ in JOBS if each == entity]
        assert listed(store, entity, limit) == ids
        ended = [job_id for job_id in ids if int(job_id[1:]) % 4 == 0]
        assert listed(store, entity, limit, state=JobState.COMPLETE) == ended
        recent = [job_id for job_id in ids if int(job_id[1:]) * 0.7 <= 5]
        assert listed(store, entity, limit, since=NOW - 5 * DAY) == recent
        assert listed(store_of(client, None), entity, limit) == ids


def test_a_rare_entity_is_found_in_one_query() -> None:
    """It does not matter how many jobs other entities have."""
    client = Queried()
    store = store_of(client)
    open_jobs(store, *((f"o{number}", "other", number * 0.01) for number in range(300)), ("j", "rare", 8.5))
    client.queries.clear()
    page = store.listing.jobs(limit=50, entity_id="rare", since=NOW - 9 * DAY)
    assert ([job.job_id for job in page.jobs], page.next) == (["j"], None)
    assert client.queries == ["jobs-by-entity"]


def test_where_the_index_is_missing_lists_are_as_without_it() -> None:
    """Until provision has made it, and DynamoDB has filled it."""
    client = Queried()
    del client.indexes["jobs-by-entity"]
    store = store_of(client)
    open_jobs(store, ("j", "rare", 1), ("k", "other", 1))
    assert listed(store, "rare") == ["j"]


def test_without_the_setting_no_job_is_in_the_index() -> None:
    """So it costs nothing, even in a table that has it for another service."""
    client = FakeDynamoDB()
    open_jobs(store_of(client, None), ("j", "rare", 1))
    assert not any("epk" in item for item in client.items.values())
    open_jobs(store_of(client), ("k", "rare", 1))
    assert [item["sk"] for item in client.items.values() if "epk" in item] == [{"S": "META"}]


@pytest.mark.parametrize("entity", ["ada@example.org", "\N{SNOWMAN}" * 1_024, ""])
def test_a_key_holds_no_entity_and_is_short(entity: str) -> None:
    """AWS shows keys in logs and reports, and takes 2,048 bytes."""
    key = Keys(service="orders").entity(entity)
    assert key.startswith("orders/E#")
    assert len(key) == len("orders/E#") + 32
    assert not entity or entity not in key


def test_a_key_stays_as_it_is() -> None:
    """A job that was opened by an earlier version is found by a later one."""
    assert Keys(service="orders").entity("order-7") == "orders/E#df8cf80227ec3237922df0ecd88385c5"
    assert time.gmtime(beginning_of(datetime(2026, 3, 1, tzinfo=UTC).date()))[:6] == (2026, 3, 1, 0, 0, 0)
