"""A look at an open job is one read, and misses nothing that is left to close."""

from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError

from pipeline.errors import ServiceUnavailableError
from pipeline.jobs import (
    Job,
    JobPlan,
    JobState,
    JobStore,
    Look,
    NewJob,
    PartDone,
    PartRef,
    SplitRef,
    StageDone,
    StageRef,
)
from pipeline.jobs.keys import Keys
from pipeline.jobs.table import Table
from pipeline.wire.marker import Marker
from tests import builders
from tests.fakes.dynamodb import FakeDynamoDB
from tests.unit.test_jobs_costs import Meter

PLAN = JobPlan(stages={"a": ("c",), "b": ("c",), "c": ("c",)})


def a_store(client: FakeDynamoDB) -> JobStore:
    """A store with three open jobs, of one of which a stage is done."""
    store = JobStore(builders.settings(), table=Table("jobs", lambda: client))  # type: ignore[arg-type,return-value]
    store.records.open(
        [NewJob(job_id=name, entity_id="e", topic="t", plan=PLAN, submitted_at=1.0) for name in "jkl"]
    )
    ref = StageRef(job_id="k", stage="a")
    store.tasks.record(
        [StageDone(ref=ref, task_id="t", ends_path=False, run_seconds=0.1, finished_at=1.0, worker="w")]
    )
    return store


def look_at(store: JobStore, *names: str) -> list[Look]:
    """Look at jobs as the sweep does."""
    looks = store.looks.at(list(store.records.get_now(names).values()))
    assert all(isinstance(look, Look) for look in looks)
    return [look for look in looks if isinstance(look, Look)]


def test_a_look_is_one_query_and_one_read_unit() -> None:
    """Besides the jobs' records, which a hundred share a request for; no write, and nothing else."""
    meter = Meter()
    store = a_store(meter)
    jobs = store.listing.open_before(1e12).jobs
    meter.requests.clear()
    meter.reads = 0
    looks = store.looks.at(jobs)
    assert (len(looks), dict(meter.requests), meter.reads) == (3, {"Query": 3}, 3)


def test_a_look_shows_what_was_recorded() -> None:
    """The state changes with it, and not with a marker."""
    store = a_store(FakeDynamoDB())
    before, other = look_at(store, "j", "k")
    assert [stage.stage for stage in other.unfinished] == ["b", "c"]
    marker = Marker.new("j")
    store.markers.record([marker])
    store.markers.record([marker])
    (marked,) = look_at(store, "j")
    assert (set(before.markers), set(marked.markers)) == (set(), {marker.id})
    assert marked.state == before.state
    store.tasks.record([done("a")])
    assert look_at(store, "j")[0].state != before.state


class Partly(FakeDynamoDB):
    """A table that does not answer about one job."""

    def query(self, **fields: Any) -> Any:
        """Refuse one job's items."""
        if "J#k" in str(fields["ExpressionAttributeValues"]):
            raise EndpointConnectionError(endpoint_url="http://away")
        return super().query(**fields)


def test_an_error_is_of_its_job_alone() -> None:
    """The other jobs are looked at."""
    store = a_store(Partly())
    looks = store.looks.at(list(store.records.get_now("jkl").values()))
    assert [isinstance(look, ServiceUnavailableError) for look in looks] == [False, True, False]


def done(stage: str, ends_path: bool = False) -> StageDone:
    """A good end of a stage of job j."""
    ref = StageRef(job_id="j", stage=stage)
    return StageDone(ref=ref, task_id="t", ends_path=ends_path, run_seconds=0.1, finished_at=1.0, worker="w")


def split_into(store: JobStore, split_id: str, parts: int, ended: int) -> None:
    """Split stage b of job j, and record the first parts as done."""
    split = SplitRef(job_id="j", stage="b", split_id=split_id)
    store.splits.seal(split, "{}", "{}", map(str, range(parts)))
    refs = [
        PartRef(job_id="j", stage="b", split_id=split_id, ordinal=each, total=parts) for each in range(ended)
    ]
    store.tasks.record([PartDone(ref=ref) for ref in refs])


def split_twice(store: JobStore) -> None:
    """Split stage b for two events of it; the parts of the second one are done."""
    split_into(store, "x", 4, 0)
    split_into(store, "y", 4, 4)


def an_end_beside(store: JobStore) -> None:
    """A worker of an earlier version died between the record of a last stage and that of its job."""
    key = Keys(service="s").stage("j", "c")
    end = {"task_id": "t", "run_seconds": 0.1, "finished_at": 1.0, "worker": "w", "ends_path": True}
    store._table.put_many({key: end})


OWING: dict[str, Callable[[JobStore], object]] = {
    "its end": lambda store: store.tasks.record([done("c", ends_path=True)]),
    "a gather": lambda store: split_into(store, "one", 300, 300),
    "a gather beside another": split_twice,
    "an end that an earlier version recorded": an_end_beside,
}


@pytest.mark.parametrize("what", OWING)
def test_what_is_left_to_close_is_seen(what: str) -> None:
    """The process that recorded it died: the sweep reads on."""
    store = a_store(FakeDynamoDB())
    OWING[what](store)
    (look,) = look_at(store, "j")
    assert look.may_owe
    assert store.resumption.resume("j")


def test_a_failure_is_read_on() -> None:
    """The job may have ended with it."""
    plan = JobPlan(stages={"a": ("a",), "b": ("b",)})
    store = JobStore(builders.settings(), table=Table("jobs", lambda: FakeDynamoDB()))  # type: ignore[arg-type,return-value]
    job = Job(
        job_id="j",
        state=JobState.RUNNING,
        entity_id="e",
        topic="t",
        plan=plan,
        submitted_at=1.0,
        updated_at=1.0,
        failed=frozenset({"a"}),
    )
    (look,) = store.looks.at([job])
    assert isinstance(look, Look)
    assert look.may_owe


WAITING: dict[str, Callable[[JobStore], object]] = {
    "nothing": lambda _: None,
    "a stage": lambda store: store.tasks.record([done("a")]),
    "parts": lambda store: split_into(store, "one", 300, 299),
}


@pytest.mark.parametrize("what", WAITING)
def test_a_job_that_waits_is_not_read_on(what: str) -> None:
    """Of a million, only few are."""
    store = a_store(FakeDynamoDB())
    WAITING[what](store)
    (look,) = look_at(store, "j")
    assert not look.may_owe
    assert store.resumption.resume("j") == []
