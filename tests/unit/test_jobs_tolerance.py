"""A gather that runs although parts failed: the missing parts are fixed once."""

import itertools
import random
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import PermanentError
from pipeline.jobs import (
    Closing,
    FailedTask,
    JobFailed,
    JobPlan,
    JobState,
    JobStore,
    NewJob,
    PartDone,
    PartRef,
    PartResult,
    SealedSplit,
    SplitFilled,
    SplitRef,
    TaskOverError,
    tolerated_parts,
)
from pipeline.jobs.table import Table
from tests import builders
from tests.fakes.dynamodb import FakeDynamoDB

SPLIT = SplitRef(job_id="j", stage="a", split_id="s")
SETTINGS = builders.settings(service_name="test")


@pytest.fixture
def store() -> JobStore:
    wire = FakeDynamoDB()
    store = JobStore(SETTINGS, table=Table("jobs", lambda: wire))  # type: ignore[arg-type,return-value]
    plan = JobPlan(stages={"a": ("a",)})
    store.records.open([NewJob(job_id="j", entity_id="e", topic="t", plan=plan, submitted_at=1.0)])
    return store


def seal(store: JobStore, total: int, tolerate: float) -> SealedSplit:
    return store.splits.seal(SPLIT, "{}", "{}", (str(n) for n in range(total)), tolerate)


def part(ordinal: int, total: int) -> PartRef:
    return PartRef(job_id="j", stage="a", split_id="s", ordinal=ordinal, total=total)


def result(ref: PartRef) -> PartResult:
    return PartResult(ref=ref, result=f'"r{ref.ordinal}"', run_seconds=0.1, attempts=1)


def succeed(store: JobStore, ordinal: int, total: int) -> Iterator[Closing]:
    assert store.splits.put_results([result(part(ordinal, total))]) == [None]
    yield from store.tasks.record([PartDone(ref=part(ordinal, total))]).closings


def fail(store: JobStore, ordinal: int, total: int, generation: int = 0) -> Iterator[Closing]:
    failure = FailedTask(
        ref=part(ordinal, total), task_id=f"t{ordinal}", error="E", message="", attempts=1, failed_at=2.0,
        generation=generation,
    )  # fmt: skip
    yield from store.tasks.fail([failure]).closings


def state(store: JobStore) -> JobState:
    job = store.records.get("j")
    assert job is not None
    return job.state


@pytest.mark.parametrize("total", [20, 700])
def test_the_gather_runs_with_what_succeeded(store: JobStore, total: int) -> None:
    """In any order: one gather, the job still running, the missing named and the other results in order."""
    sealed = seal(store, total, 0.1)
    ordinals = list(range(total))
    random.Random(total).shuffle(ordinals)
    missing = set(ordinals[: total // 10])
    closings = list(
        itertools.chain.from_iterable(
            fail(store, each, total) if each in missing else succeed(store, each, total)
            for each in sorted(ordinals, key=lambda each: (each * 7) % total)
        )
    )
    assert closings == [SplitFilled(split=SPLIT, total=total)]
    assert store.close([SplitFilled(split=SPLIT, total=total)]) == [None]
    assert state(store) is JobState.RUNNING
    assert store.splits.missing(sealed) == missing
    expected = [f'"r{each}"' for each in range(total) if each not in missing]
    assert list(store.splits.results(SPLIT, total, store.splits.missing(sealed))) == expected


@pytest.mark.parametrize(
    ("share", "total", "count"),
    [
        (0.29, 100, 29),
        (0.29, 200, 58),
        (0.07, 100, 7),
        (0.57, 100, 57),
        (1 / 3, 3, 1),
        (0.999, 1, 0),
        (0, 5, 0),
    ],
)
def test_tolerance_is_exact(share: float, total: int, count: int) -> None:
    """0.29 of 100 parts is 29, though the product of the two floats is less."""
    assert tolerated_parts(share, total) == count


@given(percent=st.integers(0, 99), hundreds=st.integers(1, 100))
def test_a_share_in_percent_is_exact(percent: int, hundreds: int) -> None:
    """Whatever the percent: as if it were computed in whole numbers."""
    assert tolerated_parts(percent / 100, hundreds * 100) == percent * hundreds


def test_as_many_as_tolerated_fail_and_the_gather_runs(store: JobStore) -> None:
    """29 of 100 at 0.29."""
    seal(store, 100, 0.29)
    closings = [c for n in range(100) for c in (fail if n < 29 else succeed)(store, n, 100)]
    assert closings == [SplitFilled(split=SPLIT, total=100)]


def test_one_more_than_tolerated_fails_the_job(store: JobStore) -> None:
    """Two of twenty are a tenth, three are not."""
    sealed = seal(store, 20, 0.1)
    closings = [c for n in range(20) for c in (fail if n < 3 else succeed)(store, n, 20)]
    assert [type(each) for each in closings] == [JobFailed]
    assert (state(store), store.splits.missing(sealed)) == (JobState.FAILED, frozenset())


def test_a_redrive_may_bring_failures_under_the_limit(store: JobStore) -> None:
    """One of three is redriven and succeeds; the gather then goes on without the other two."""
    sealed = seal(store, 20, 0.1)
    for n in range(20):
        list((fail if n < 3 else succeed)(store, n, 20))
    assert store.resumption.redrive([(part(1, 20), 0)]) == [None]
    assert list(succeed(store, 1, 20)) == [SplitFilled(split=SPLIT, total=20)]
    assert store.splits.missing(sealed) == {0, 2}


def test_what_is_missing_stays_missing(store: JobStore) -> None:
    """Redriven before the gather was sent, it succeeds too late; afterwards there is nothing to redrive."""
    sealed = seal(store, 10, 0.1)
    closings = [c for n in range(10) for c in (fail if n == 4 else succeed)(store, n, 10)]
    assert store.resumption.redrive([(part(4, 10), 0)]) == [None]
    assert list(succeed(store, 4, 10)) == [SplitFilled(split=SPLIT, total=10)]
    assert store.splits.missing(sealed) == {4}
    assert len(list(store.splits.results(SPLIT, 10, {4}))) == 9
    assert closings == [SplitFilled(split=SPLIT, total=10)]
    assert store.close([SplitFilled(split=SPLIT, total=10)]) == [None]
    assert [type(each) for each in store.resumption.redrive([(part(4, 10), 0)])] == [TaskOverError]
    assert list(fail(store, 4, 10, generation=1)) == []
    assert state(store) is JobState.RUNNING


def test_a_closer_that_died_is_replaced(store: JobStore) -> None:
    """Whoever climbs again finds the same gather to be sent, until it is closed."""
    seal(store, 10, 0.1)
    closings = [c for n in range(10) for c in (fail if n == 9 else succeed)(store, n, 10)]
    assert list(store.resumption.resume("j")) == closings == list(fail(store, 9, 10))
    assert store.close([SplitFilled(split=SPLIT, total=10)]) == [None]
    assert (list(store.resumption.resume("j")), list(fail(store, 9, 10))) == ([], [])


def test_without_tolerance_nothing_is_missing(store: JobStore) -> None:
    """A failed part fails the job, and a result that is gone is an error."""
    sealed = seal(store, 10, 0)
    closings = [c for n in range(10) for c in (fail if n == 9 else succeed)(store, n, 10)]
    assert [type(each) for each in closings] == [JobFailed]
    assert store.splits.missing(sealed) == frozenset()
    with pytest.raises(PermanentError, match="The result of part 9 of 10"):
        list(store.splits.results(SPLIT, 10))
