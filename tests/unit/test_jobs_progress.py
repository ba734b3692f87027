"""The progress of a very large split: shown from few reads, counted in full where that is asked for."""

from collections import Counter
from typing import Any

import pytest

from pipeline.jobs import (
    FailedTask,
    JobPlan,
    JobStore,
    NewJob,
    PartDone,
    PartRef,
    SplitRef,
    StageProgress,
    listing,
)
from pipeline.jobs.table import Table
from tests import builders
from tests.fakes.dynamodb import FakeDynamoDB

TOTAL = 12 * 256
SHOWN = 4


class Wire(FakeDynamoDB):
    """A table that counts the leaves that are read."""

    def __init__(self) -> None:
        super().__init__()
        self.read: Counter[str] = Counter()
        self.requests = 0

    def batch_get_item(self, *, RequestItems: Any) -> Any:  # noqa: N803
        ((_, request),) = RequestItems.items()
        self.requests += 1
        self.read.update(key["pk"]["S"] for key in request["Keys"] if "#0#" in key["pk"]["S"])
        return super().batch_get_item(RequestItems=RequestItems)


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Wire:
    monkeypatch.setattr(listing, "LEAVES_SHOWN", SHOWN)
    return Wire()


@pytest.fixture
def store(wire: Wire) -> JobStore:
    store = JobStore(builders.settings(service_name="test"), table=Table("jobs", lambda: wire))  # type: ignore[arg-type,return-value]
    for job_id in ("j", "k"):
        plan = JobPlan(stages={"a": ("a",)})
        store.records.open([NewJob(job_id=job_id, entity_id="e", topic="t", plan=plan, submitted_at=1.0)])
        split = SplitRef(job_id=job_id, stage="a", split_id=f"s-{job_id}")
        store.splits.seal(split, "{}", "{}", map(str, range(TOTAL if job_id == "j" else 10)))
    return store


def finish(store: JobStore, *parts: range) -> None:
    store.tasks.record([PartDone(ref=part(each)) for some in parts for each in some])


def fail(store: JobStore, *ordinals: int) -> None:
    store.tasks.fail(
        [
            FailedTask(ref=part(n), task_id=f"t{n}", error="E", message="", attempts=1, failed_at=2.0)
            for n in ordinals
        ]
    )


def part(ordinal: int) -> PartRef:
    return PartRef(job_id="j", stage="a", split_id="s-j", ordinal=ordinal, total=TOTAL)


def progress(store: JobStore, *, exact: bool = False) -> StageProgress:
    found = store.listing.progress("j", exact=exact)
    assert found
    return found[1][0]


def counts(stage: StageProgress) -> tuple[int, int, bool]:
    return stage.done, stage.failed, stage.exact


def test_what_runs_first_is_counted_and_the_rest_is_not_read(store: JobStore, wire: Wire) -> None:
    """Full leaves cost nothing, of the others the first are read, and it is told that not all were."""
    finish(store, range(2 * 256), range(2 * 256, 2 * 256 + 7), range(4 * 256, 4 * 256 + 5))
    assert counts(progress(store)) == (2 * 256 + 12, 0, False)
    assert wire.read.total() == SHOWN
    finish(store, range(11 * 256, 11 * 256 + 3))
    assert counts(progress(store)) == (2 * 256 + 12, 0, False)
    assert counts(progress(store, exact=True)) == (2 * 256 + 15, 0, True)


def test_a_split_with_few_open_leaves_is_counted_exactly(store: JobStore, wire: Wire) -> None:
    """However many of its leaves are full."""
    finish(store, range(8 * 256), range(9 * 256, 9 * 256 + 100))
    fail(store, 10 * 256)
    assert counts(progress(store)) == counts(progress(store, exact=True)) == (8 * 256 + 100, 1, True)
    assert wire.read.total() == 2 * SHOWN


def test_leaves_that_ended_with_failures_are_read_first(store: JobStore) -> None:
    """So a few failures are counted exactly, although everything else of the split still waits."""
    finish(store, range(7 * 256 + 2, 8 * 256))
    fail(store, 7 * 256, 7 * 256 + 1)
    assert counts(progress(store)) == (254, 2, False)


def test_an_ended_leaf_that_is_not_read_counts_as_one_with_one_failure(store: JobStore) -> None:
    """Done and failed together are right then."""
    for leaf in range(6):
        finish(store, range(leaf * 256 + 2, (leaf + 1) * 256))
        fail(store, leaf * 256, leaf * 256 + 1)
    assert counts(progress(store)) == (4 * 254 + 2 * 255, 4 * 2 + 2, False)
    assert counts(progress(store, exact=True)) == (6 * 254, 12, True)


def test_ten_million_parts_are_shown_in_a_few_requests() -> None:
    """The job's record, one node of the top, 153 below it, and a thousand leaves of 39,063."""
    wire = Wire()
    store = JobStore(builders.settings(service_name="test"), table=Table("jobs", lambda: wire))  # type: ignore[arg-type,return-value]
    plan = JobPlan(stages={"a": ("a",)})
    store.records.open([NewJob(job_id="j", entity_id="e", topic="t", plan=plan, submitted_at=1.0)])
    store.splits.seal(SplitRef(job_id="j", stage="a", split_id="s-j"), "{}", "{}", ["0"])
    wire.items["test/J#j", "P#a"]["n"] = {"N": "10000000"}
    assert counts(progress(store)) == (0, 0, False)
    assert wire.read.total() == listing.LEAVES_SHOWN
    assert wire.requests == 1 + 2 + 10


def test_a_small_split_beside_a_large_one_is_counted_exactly(store: JobStore, wire: Wire) -> None:
    """The reads of a list of jobs are shared, and what a small one does not need goes to the others."""
    jobs = [job for job_id in ("j", "k") if (job := store.records.get(job_id))]
    ((large,), (small,)) = store.listing.progress_of(jobs)
    assert (large.exact, small.exact) == (False, True)
    assert wire.read.total() == SHOWN - 1
