"""Shards of the index: processes with different settings, and lists that miss no job of any of them."""

import zlib
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ReadTimeoutError
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.jobs import JobPlan, JobState, JobStore, NewJob
from pipeline.jobs.indexshards import AGAIN_AFTER, IndexShards
from pipeline.jobs.keys import Keys
from pipeline.jobs.model import JobFilled
from pipeline.jobs.table import Table
from pipeline.settings import MOST_SHARDS
from tests import builders
from tests.fakes.dynamodb import FakeDynamoDB

PLAN = JobPlan(stages={"a": ("a",)})
NOW = 1_700_000_000.0

#: A job that is in another shard of 64 than in one of the first four.
FAR = next(f"j{n}" for n in range(100) if zlib.crc32(b"j%d" % n) % MOST_SHARDS >= 4)


def store_of(client: FakeDynamoDB, shards: int = 4) -> JobStore:
    """The store of a process with this setting."""
    table = Table("jobs", lambda: client)  # type: ignore[arg-type,return-value]
    return JobStore(builders.settings(dynamodb_index_shards=shards), table=table, clock=lambda: NOW)


def open_job(store: JobStore, job_id: str) -> None:
    """Open a job."""
    job = NewJob(job_id=job_id, entity_id="e", topic="t", plan=PLAN, submitted_at=NOW)
    assert store.records.open([job]).errors == [None]


def end_job(store: JobStore, job_id: str) -> None:
    """Close a job that is complete."""
    job = store.records.get(job_id)
    assert job
    assert store.close([JobFilled(job=job)]) == [None]


def shard_of(client: FakeDynamoDB, job_id: str) -> int:
    """The shard of a job's entry."""
    ipk: str = client.items[f"s/J#{job_id}", "META"]["ipk"]["S"]
    return int(ipk.rsplit("#", 1)[1])


def recorded(client: FakeDynamoDB) -> Any:
    """The number of shards that lists read, as recorded."""
    return client.items.get(("s/I", "-"), {}).get("shards")


@settings(max_examples=15, deadline=None)
@given(
    opened=st.lists(st.tuples(st.integers(4, MOST_SHARDS), st.integers(4, MOST_SHARDS), st.booleans())),
    reader=st.integers(4, MOST_SHARDS),
)
def test_every_list_has_every_job(opened: list[tuple[int, int, bool]], reader: int) -> None:
    """Writers and reader may each be set to another number of shards."""
    client = FakeDynamoDB()
    for number, (opener, closer, ends) in enumerate(opened):
        open_job(store_of(client, opener), f"j{number}")
        if ends:
            end_job(store_of(client, closer), f"j{number}")
    listing = store_of(client, reader).listing
    running = {f"j{number}" for number, (_, _, ends) in enumerate(opened) if not ends}
    assert {job.job_id for job in listing.jobs(days=2).jobs} == {
        f"j{number}" for number in range(len(opened))
    }
    assert {job.job_id for job in listing.jobs(JobState.RUNNING).jobs} == running
    page = listing.open_before(NOW + 1)
    seen = {job.job_id for job in page.jobs}
    while page.next:
        page = listing.open_before(NOW + 1, after=page.next)
        seen |= {job.job_id for job in page.jobs}
    assert seen == running


class Slow(FakeDynamoDB):
    """A table that lets something happen once a list was told how many shards have open jobs."""

    def __init__(self, meanwhile: Callable[[], None]) -> None:
        super().__init__()
        self._meanwhile = [meanwhile]

    def get_item(self, *, Key: Any, **fields: Any) -> Any:  # noqa: N803 - the field's name
        """Answer; after the first answer about the number of shards the thing happens."""
        answer = super().get_item(Key=Key, **fields)
        if Key["pk"] == {"S": "s/I"} and self._meanwhile:
            self._meanwhile.pop()()
        return answer


def test_a_job_that_ends_in_a_new_shard_while_a_list_is_read_is_in_it() -> None:
    """It is no longer among the open ones; the number of shards is read again for those that ended."""
    client = Slow(lambda: end_job(store_of(client, MOST_SHARDS), FAR))
    open_job(store_of(client), FAR)
    assert [job.state for job in store_of(client).listing.jobs(days=2).jobs] == [JobState.COMPLETE]
    assert shard_of(client, FAR) >= 4


class Deaf(FakeDynamoDB):
    """A table that takes the number of shards, and whose answers get lost."""

    away = True

    def update_item(self, *, Key: Any, **fields: Any) -> Any:  # noqa: N803 - the field's name
        """Fail after the write."""
        answer = super().update_item(Key=Key, **fields)
        if self.away:
            raise ReadTimeoutError(endpoint_url="here")
        return answer


def test_no_entry_is_in_a_shard_that_is_not_known_to_be_recorded() -> None:
    """Where the number cannot be recorded, jobs are opened as with the fewest shards."""
    client = Deaf()
    open_job(store_of(client, MOST_SHARDS), FAR)
    assert shard_of(client, FAR) < 4
    client.away = False
    end_job(store_of(client, MOST_SHARDS), FAR)
    assert shard_of(client, FAR) == zlib.crc32(FAR.encode()) % MOST_SHARDS
    assert recorded(client) == {"N": str(MOST_SHARDS)}


def test_a_number_that_could_not_be_recorded_is_tried_again_later() -> None:
    """Not for each job: an outage must not cost a time-out for every one of them."""
    client, now, asked = Deaf(), 100.0, 0

    def the_client() -> Any:
        nonlocal asked
        asked += 1
        return client

    table = Table("jobs", the_client)
    shards = IndexShards(table, Keys(service="s"), 16, clock=lambda: now)
    assert [shards.to_write() for _ in range(9)] == [4] * 9
    assert recorded(client) == {"N": "16"}
    client.away = False
    del client.items["s/I", "-"]
    assert shards.to_write() == 4
    now += AGAIN_AFTER
    assert shards.to_write() == 16
    assert recorded(client) == {"N": "16"}


def test_the_recorded_number_only_grows() -> None:
    """A process with fewer shards comes later, as in a roll-back: the jobs in the others are read on."""
    client = FakeDynamoDB()
    open_job(store_of(client, MOST_SHARDS), FAR)
    open_job(store_of(client, 9), "j")
    assert recorded(client) == {"N": str(MOST_SHARDS)}
    listing = store_of(client).listing
    assert listing.has_open_beyond(4)
    end_job(store_of(client), FAR)
    assert shard_of(client, FAR) < 4
    assert listing.has_open_beyond(4) is (zlib.crc32(b"j") % 9 >= 4)
    assert {job.job_id for job in listing.jobs(days=2).jobs} == {FAR, "j"}


@pytest.mark.parametrize("shards", [4, 16])
def test_a_process_records_its_number_once_and_the_default_never(shards: int) -> None:
    """So the default costs no request."""
    client = FakeDynamoDB()
    store = store_of(client, shards)
    open_job(store, "j")
    assert (recorded(client) is not None) == (shards > 4)
    client.items.pop(("s/I", "-"), None)
    open_job(store, "k")
    assert recorded(client) is None
