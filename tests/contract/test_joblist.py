"""Lists of jobs: constant cost, and every job on exactly one page."""

import random
import time
import uuid
from collections import Counter
from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any

import pytest

from pipeline.jobs import JobFilled, JobPage, JobPlan, JobState, JobStore, NewJob, StageDone, StageRef
from pipeline.jobs.dynamodb import dynamodb_client
from pipeline.jobs.keys import beginning_of
from pipeline.jobs.schema import table_definition
from pipeline.services.environment import Services
from tests.conftest import MakeSettings

PLAN = JobPlan(stages={"extract": ("report",), "report": ("report",)})
DAY = 86_400

#: Days that a page looks through.
DAYS = 2


class Requests:
    """The requests that this process sends to DynamoDB."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        dynamodb_client().meta.events.register("after-call.dynamodb", self._count)

    def _count(self, model: Any, **_: Any) -> None:
        self._counts[model.name] += 1

    def of(self, call: Callable[[], Any]) -> Counter[str]:
        """Those of one call."""
        self._counts.clear()
        call()
        return Counter(self._counts)


@pytest.fixture(name="store")
def store_fixture(services: Services, make_settings: MakeSettings) -> JobStore:
    """A store with a table of its own."""
    store = JobStore(make_settings(services))
    store.schema.provision()
    return store


def job(submitted_at: float, entity_id: str = "entity") -> NewJob:
    """A job submitted then."""
    return NewJob(
        job_id=uuid.uuid4().hex, entity_id=entity_id, topic="received", plan=PLAN, submitted_at=submitted_at
    )


def complete(store: JobStore, job_id: str) -> None:
    """End a job well."""
    ref = StageRef(job_id=job_id, stage="report")
    ended = StageDone(
        ref=ref, task_id="t", ends_path=True, run_seconds=1, finished_at=time.time(), worker="w"
    )
    (closing,) = store.tasks.record([ended]).closings
    assert isinstance(closing, JobFilled)
    assert store.close([closing]) == [None]


def walked(page: Callable[[str | None], JobPage]) -> list[str]:
    """The ids of all pages, as a person who looks further and further sees them."""
    seen: list[str] = []
    before: str | None = None
    while True:
        found = page(before)
        seen += [each.job_id for each in found.jobs]
        assert found.next is None or before is None or found.next < before
        before = found.next
        if before is None:
            return seen


def test_an_index_that_knows_no_entities_is_named(services: Services, make_settings: MakeSettings) -> None:
    """An index that lacks the entities is named with what to do, instead of finding no job."""
    settings = make_settings(services)
    definition = table_definition(settings.dynamodb_table)
    (index,) = definition["GlobalSecondaryIndexes"]
    keys_only = {**index, "Projection": {"ProjectionType": "KEYS_ONLY"}}
    dynamodb_client().create_table(**{**definition, "GlobalSecondaryIndexes": [keys_only]})
    report = JobStore(settings).schema.provision(update=True)
    assert "does not project just entity: delete it, and provision again" in report.differences[0]


def test_an_index_that_is_missing_is_made(embedded_services: Services, make_settings: MakeSettings) -> None:
    """As after the deletion that the report asks for; then nothing differs."""
    # DynamoDB Local, once many tables came and went, never ends the making of an index that comes later.
    settings = make_settings(embedded_services)
    definition = table_definition(settings.dynamodb_table)
    keys = {part["AttributeName"] for part in definition["KeySchema"]}
    dynamodb_client().create_table(
        TableName=settings.dynamodb_table,
        BillingMode="PAY_PER_REQUEST",
        KeySchema=definition["KeySchema"],
        AttributeDefinitions=[x for x in definition["AttributeDefinitions"] if x["AttributeName"] in keys],
    )
    assert any("has no index" in each for each in JobStore(settings).schema.inspect().differences)
    assert JobStore(settings).schema.provision(update=True).outcome == "changed"
    assert JobStore(settings).schema.inspect().outcome == "present"


def test_the_index_of_a_provisioned_table_is_made(
    embedded_services: Services, make_settings: MakeSettings
) -> None:
    """With the table's own capacity, which DynamoDB asks for."""
    settings = make_settings(embedded_services)
    definition = table_definition(settings.dynamodb_table)
    keys = {part["AttributeName"] for part in definition["KeySchema"]}
    units = {"ReadCapacityUnits": 50, "WriteCapacityUnits": 500}
    dynamodb_client().create_table(
        TableName=settings.dynamodb_table,
        ProvisionedThroughput=units,  # type: ignore[arg-type]
        KeySchema=definition["KeySchema"],
        AttributeDefinitions=[x for x in definition["AttributeDefinitions"] if x["AttributeName"] in keys],
    )
    schema = JobStore(settings).schema
    assert schema.provision(update=True).outcome == "changed"
    found = schema.inspect().write_capacity
    assert found
    assert (found.provisioned, found.index) == (True, 500)


def test_looking_further_finds_every_job_once(store: JobStore) -> None:
    """A page looks at a few days: all pages together have every job, in order, though some are empty."""
    now, chance = time.time(), random.Random(7)
    jobs = [job(now - chance.uniform(0, 55) * DAY) for _ in range(60)]
    assert store.records.open(jobs).errors == [None] * len(jobs)
    closed = {each.job_id for each in jobs if chance.random() < 0.5}
    for job_id in closed:
        complete(store, job_id)
    ids = [each.job_id for each in sorted(jobs, key=lambda each: each.submitted_at, reverse=True)]
    for limit, days in ((7, 3), (100, 60)):
        assert walked(lambda before: store.listing.jobs(limit=limit, days=days, before=before)) == ids  # noqa: B023
    completed = [job_id for job_id in ids if job_id in closed]
    assert (
        walked(lambda before: store.listing.jobs(JobState.COMPLETE, limit=4, days=2, before=before))
        == completed
    )
    since = now - 20 * DAY
    recent = [each.job_id for each in jobs if each.submitted_at >= since]
    assert sorted(walked(lambda before: store.listing.jobs(limit=9, since=since, before=before))) == sorted(
        recent
    )


@pytest.mark.one_set
def test_a_list_has_the_jobs_of_all_shards_that_any_process_used(
    services: Services, make_settings: MakeSettings
) -> None:
    """Processes with more shards and with fewer, side by side: each lists the jobs of all of them."""
    settings = make_settings(services)
    stores = [
        JobStore(settings.model_copy(update={"dynamodb_index_shards": shards})) for shards in (4, 16, 11)
    ]
    stores[0].schema.provision()
    since = time.time() - 60
    jobs = [job(time.time() - number) for number in range(45)]
    for number, each in enumerate(jobs):
        assert stores[number % 3].records.open([each]).errors == [None]
        if number % 2:
            complete(stores[number % 4 % 3], each.job_id)
    ids = [each.job_id for each in jobs]
    assert stores[1].listing.has_open_beyond(4)
    assert not stores[1].listing.has_open_beyond(16)
    for store in stores:
        assert walked(lambda before: store.listing.jobs(limit=20, since=since, before=before)) == ids  # noqa: B023
        # Few of many: one page has them all, whichever shards they are in.
        still_open = store.listing.open_before(time.time(), limit=1000).jobs
        assert [each.job_id for each in still_open] == ids[::2][::-1]


def test_an_entitys_jobs_are_listed_by_an_index_of_their_own(
    services: Services, make_settings: MakeSettings
) -> None:
    """Those submitted since the day of the setting in one query, the others as ever; each once, in order."""
    now = time.time()
    day = datetime.fromtimestamp(now - 3 * DAY, UTC).date()
    plain = make_settings(services)
    settings = plain.model_copy(update={"dynamodb_entity_index_since": day})
    store = JobStore(settings)
    assert store.schema.provision().outcome == "made"
    assert store.schema.inspect().outcome == "present"
    # A job every four hours, of six days; an earlier version opened those before that day.
    jobs = [job(now - number * DAY / 6, "rare" if number % 5 == 0 else "entity") for number in range(36)]
    for each in jobs:
        by_entity = each.submitted_at >= beginning_of(day)
        opener = store if by_entity else JobStore(plain)
        assert opener.records.open([each]).errors == [None]
    complete(store, jobs[5].job_id)
    requests, since = Requests(), now - 2 * DAY
    asked = requests.of(lambda: store.listing.jobs(entity_id="rare", since=since))
    assert asked == {"Query": 1, "BatchGetItem": 1}
    ids = [each.job_id for each in jobs if each.entity_id == "rare"]
    since = now - 8 * DAY
    for limit in (2, 50):
        for reader in (store, JobStore(plain)):
            assert ids == walked(
                lambda before: reader.listing.jobs(entity_id="rare", limit=limit, since=since, before=before)  # noqa: B023
            )
    found = store.listing.jobs(JobState.COMPLETE, entity_id="rare", since=now - 2 * DAY)
    assert [each.job_id for each in found.jobs] == [jobs[5].job_id]


def test_a_table_without_the_index_by_entity_is_listed_without_it(
    services: Services, make_settings: MakeSettings
) -> None:
    """As before provision made it: the setting alone breaks no list."""
    plain = make_settings(services)
    JobStore(plain).schema.provision()
    settings = plain.model_copy(update={"dynamodb_entity_index_since": date(2026, 1, 1)})
    store, jobs = JobStore(settings), [job(time.time(), entity) for entity in ("rare", "entity")]
    assert "has no index jobs-by-entity" in store.schema.inspect().differences[0]
    assert store.records.open(jobs).errors == [None, None]
    found = store.listing.jobs(entity_id="rare", since=time.time() - 60)
    assert [each.job_id for each in found.jobs] == [jobs[0].job_id]


def test_a_list_is_cheap_where_there_are_no_jobs(store: JobStore) -> None:
    """Nobody reads two months of empty days for a page; the page says how far it looked."""
    requests = Requests()
    asked = requests.of(lambda: store.listing.jobs(limit=50, days=DAYS))
    assert asked["Query"] <= 4 + 12 * DAYS
    # How many shards the index has: once for the jobs that run, once for those that ended.
    assert asked.keys() == {"Query", "GetItem"}
    assert asked["GetItem"] == 2
    asked_at = time.time()
    page = store.listing.jobs(limit=50, days=DAYS)
    assert page.next is not None
    assert float(page.next.split("#")[0]) > asked_at - DAYS * DAY
    assert walked(lambda before: store.listing.jobs(limit=50, days=DAYS, before=before)) == []


def test_ten_thousand_jobs_cost_a_page_what_ten_do(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first page, a later one and that of one entity cost a few requests, and none is a scan."""
    now, rare = time.time(), 'the one: "ä" <b>'
    jobs = [
        job(now - number * 0.5, rare if number % 2_500 == 2_499 else "entity") for number in range(10_000)
    ]
    assert store.records.open(jobs).errors == [None] * len(jobs)
    ids = [each.job_id for each in jobs]
    for job_id in ids[2_499:5_000:2_500]:
        complete(store, job_id)
    requests = Requests()
    asked = requests.of(lambda: store.listing.jobs(limit=50, days=DAYS))
    # Those that run, and of today or yesterday those that ended.
    assert asked["Query"] <= 4 + 12 * 2
    assert asked.keys() == {"Query", "BatchGetItem", "GetItem"}
    first = store.listing.jobs(limit=50, days=DAYS)
    assert [each.job_id for each in first.jobs] == ids[:50]
    second = store.listing.jobs(limit=50, days=DAYS, before=first.next)
    assert [each.job_id for each in second.jobs] == ids[50:100]
    expected = ids[2_499::2_500]
    since = now - 6_000
    for at_once in (400, 5_000):
        monkeypatch.setattr("pipeline.jobs.listing.LOOKED_AT", at_once)
        assert expected == walked(
            lambda before: store.listing.jobs(entity_id=rare, limit=50, days=DAYS, since=since, before=before)
        )
    asked = requests.of(lambda: store.listing.jobs(entity_id=rare, limit=50, days=DAYS))
    assert asked.keys() <= {"Query", "BatchGetItem", "GetItem"}
    assert asked["Query"] <= 4 + 12 * DAYS
    assert [
        each.job_id
        for each in store.listing.jobs(JobState.COMPLETE, entity_id=rare, limit=50, days=DAYS).jobs
    ] == expected[:2]


def test_the_progress_of_many_jobs_is_that_of_each(store: JobStore) -> None:
    """Read together, each job's stages are told as when it is read alone."""
    jobs = [job(time.time() - number) for number in range(3)]
    store.records.open(jobs)
    complete(store, jobs[1].job_id)
    found = store.listing.jobs(limit=10).jobs
    assert store.listing.progress_of(found) == [
        progress[1] for each in found if (progress := store.listing.progress(each.job_id))
    ]
