"""The sweep's list of open jobs: page by page, whatever number of shards they are spread over."""

import zlib
from collections.abc import Mapping
from functools import cache
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.deadletters.openjobs import PAGE
from pipeline.jobs import JobPlan, JobStore, NewJob, moment
from pipeline.jobs.table import Table
from pipeline.settings import MOST_SHARDS
from tests import builders
from tests.fakes.dynamodb import FakeDynamoDB

PLAN = JobPlan(stages={"a": ("a",)})


class Entries(FakeDynamoDB):
    """A table that counts the index's entries that are read."""

    def __init__(self) -> None:
        super().__init__()
        self.read: list[int] = []

    def query(self, **fields: Any) -> Any:
        """Answer a query."""
        answer = super().query(**fields)
        self.read.append(len(answer["Items"]))
        return answer


@cache
def ids_in(shard: int, shards: int) -> list[str]:
    """The ids of jobs whose entries are in one shard."""
    return [f"job-{n}" for n in range(60 * shards) if zlib.crc32(b"job-%d" % n) % shards == shard]


def store_with(client: FakeDynamoDB, shards: int, submitted: Mapping[str, int]) -> JobStore:
    """A store with jobs, by id, submitted at these moments."""
    table = Table("jobs", lambda: client)  # type: ignore[arg-type,return-value]
    store = JobStore(builders.settings(dynamodb_index_shards=shards), table=table)
    jobs = [
        NewJob(job_id=job_id, entity_id="e", topic="t", plan=PLAN, submitted_at=float(at))
        for job_id, at in submitted.items()
    ]
    assert not any(store.records.open(jobs).errors)
    return store


def pages_of(store: JobStore, before: float, limit: int) -> list[list[str]]:
    """The jobs of all pages, as their keys."""
    pages: list[list[str]] = []
    after: str | None = None
    while True:
        page = store.listing.open_before(before, limit=limit, after=after)
        pages.append([moment(job.submitted_at, job.job_id) for job in page.jobs])
        after = page.next
        if after is None:
            return pages


@settings(max_examples=30, deadline=None)
@given(
    shards=st.sampled_from([4, 7, 64]),
    # In a few shards: spread evenly, they would all come with the first read of each.
    jobs=st.lists(st.tuples(st.integers(1, 30), st.integers(0, 2)), min_size=10, max_size=40),
    before=st.integers(1, 31),
    limit=st.integers(1, 12),
)
def test_pages_have_each_job_once_in_order(
    shards: int, jobs: list[tuple[int, int]], before: int, limit: int
) -> None:
    """None is behind the end of a page, and no page but the last is empty."""
    submitted = {ids_in(shard, shards)[number]: at for number, (at, shard) in enumerate(jobs)}
    pages = pages_of(store_with(FakeDynamoDB(), shards, submitted), before, limit)
    expected = sorted(moment(float(at), job_id) for job_id, at in submitted.items() if at < before)
    assert [key for page in pages for key in page] == expected
    assert all(len(page) <= limit for page in pages)
    assert all(pages[:-1])


def test_few_entries_are_read_in_vain() -> None:
    """Four for each job at most, of the most shards there may be: not all of them for each page."""
    client, jobs = Entries(), 8 * PAGE
    store = store_with(client, MOST_SHARDS, {f"job-{n}": n + 1 for n in range(jobs)})
    pages_of(store, 1e9, PAGE)
    assert sum(client.read) < 4 * jobs
