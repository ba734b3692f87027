"""A gather that goes on without what failed: which parts that are is fixed once, whatever comes later."""

import itertools
import random
from collections.abc import Iterator

import pytest

from config.settings import Settings
from pipeline.errors import PermanentError
from pipeline.jobs import (
    Closing,
    Failed,
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
)
from pipeline.jobs.table import Table
from tests.fakes.dynamodb import FakeDynamoDB

SPLIT = SplitRef(job_id="j", stage="a", split_id="s")
SETTINGS = Settings(
    service_name="test",
    kafka_bootstrap_servers="none",
    kafka_consumer_group="test",
    sqs_task_queue_url="http://none/tasks.fifo",
    sqs_dlq_url="http://none/dlq.fifo",
)


@pytest.fixture
def store() -> JobStore:
    wire = FakeDynamoDB()
    store = JobStore(SETTINGS, table=Table("jobs", lambda: wire))  # type: ignore[arg-type,return-value]
    plan = JobPlan(stages={"a": ("a",)})
    store.open_jobs([NewJob(job_id="j", entity_id="e", topic="t", plan=plan, submitted_at=1.0)])
    return store


def seal(store: JobStore, total: int, tolerate: float) -> SealedSplit:
    return store.seal(SPLIT, "{}", "{}", (str(n) for n in range(total)), tolerate)


def part(ordinal: int, total: int) -> PartRef:
    return PartRef(job_id="j", stage="a", split_id="s", ordinal=ordinal, total=total)


def result(ref: PartRef) -> PartResult:
    return PartResult(ref=ref, result=f'"r{ref.ordinal}"', run_seconds=0.1, attempts=1)


def succeed(store: JobStore, ordinal: int, total: int) -> Iterator[Closing]:
    assert store.put_results([result(part(ordinal, total))]) == [None]
    yield from store.record([PartDone(ref=part(ordinal, total))]).closings


def fail(store: JobStore, ordinal: int, total: int, generation: int = 0) -> Iterator[Closing]:
    failure = Failed(
        ref=part(ordinal, total), task_id=f"t{ordinal}", error="E", message="", attempts=1, failed_at=2.0,
        generation=generation,
    )  # fmt: skip
    yield from store.record_failed([failure]).closings


def state(store: JobStore) -> JobState:
    job = store.job("j")
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
    assert store.close(SplitFilled(split=SPLIT, total=total))
    assert state(store) is JobState.RUNNING
    assert store.missing(sealed) == missing
    expected = [f'"r{each}"' for each in range(total) if each not in missing]
    assert list(store.results(SPLIT, total, store.missing(sealed))) == expected


def test_one_more_than_tolerated_fails_the_job(store: JobStore) -> None:
    """Two of twenty are a tenth, three are not."""
    sealed = seal(store, 20, 0.1)
    closings = [c for n in range(20) for c in (fail if n < 3 else succeed)(store, n, 20)]
    assert [type(each) for each in closings] == [JobFailed]
    assert (state(store), store.missing(sealed)) == (JobState.FAILED, frozenset())


def test_a_redrive_may_bring_failures_under_the_limit(store: JobStore) -> None:
    """One of three is redriven and succeeds; the gather then goes on without the other two."""
    sealed = seal(store, 20, 0.1)
    for n in range(20):
        list((fail if n < 3 else succeed)(store, n, 20))
    assert store.redrive([(part(1, 20), 0)]) == [True]
    assert list(succeed(store, 1, 20)) == [SplitFilled(split=SPLIT, total=20)]
    assert store.missing(sealed) == {0, 2}


def test_what_is_missing_stays_missing(store: JobStore) -> None:
    """Redriven before the gather was sent, it succeeds too late; afterwards there is nothing to redrive."""
    sealed = seal(store, 10, 0.1)
    closings = [c for n in range(10) for c in (fail if n == 4 else succeed)(store, n, 10)]
    assert store.redrive([(part(4, 10), 0)]) == [True]
    assert list(succeed(store, 4, 10)) == [SplitFilled(split=SPLIT, total=10)]
    assert store.missing(sealed) == {4}
    assert len(list(store.results(SPLIT, 10, {4}))) == 9
    assert closings == [SplitFilled(split=SPLIT, total=10)]
    assert store.close(SplitFilled(split=SPLIT, total=10))
    assert store.redrive([(part(4, 10), 0)]) == [False]
    assert list(fail(store, 4, 10, generation=1)) == []
    assert state(store) is JobState.RUNNING


def test_a_closer_that_died_is_replaced(store: JobStore) -> None:
    """Whoever climbs again finds the same gather to be sent, until it is closed."""
    seal(store, 10, 0.1)
    closings = [c for n in range(10) for c in (fail if n == 9 else succeed)(store, n, 10)]
    assert list(store.resume("j")) == closings == list(fail(store, 9, 10))
    store.close(SplitFilled(split=SPLIT, total=10))
    assert (list(store.resume("j")), list(fail(store, 9, 10))) == ([], [])


def test_without_tolerance_nothing_is_missing(store: JobStore) -> None:
    """A failed part fails the job, and a result that is gone is an error."""
    sealed = seal(store, 10, 0)
    closings = [c for n in range(10) for c in (fail if n == 9 else succeed)(store, n, 10)]
    assert [type(each) for each in closings] == [JobFailed]
    assert store.missing(sealed) == frozenset()
    with pytest.raises(PermanentError, match="The result of part 9 of 10"):
        list(store.results(SPLIT, 10))
