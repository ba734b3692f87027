"""The ledger: the order of its effects, what a crash left open, and what it leaves to its caller."""

from collections.abc import Sequence
from typing import Any

import pytest

from pipeline.errors import ServiceError, ServiceUnavailableError
from pipeline.jobs import (
    Closing,
    FailedTask,
    JobFailed,
    JobFilled,
    JobPlan,
    JobState,
    JobStore,
    NewJob,
    PartDone,
    PartRef,
    SplitFilled,
    SplitRef,
    StageDone,
    StageRef,
)
from pipeline.jobs.table import Table
from pipeline.kafka import OutgoingRecord
from pipeline.ledger import EmittedTask, Ledger
from pipeline.patience import Patience
from tests import builders
from tests.fakes.dynamodb import FakeDynamoDB

SETTINGS = builders.settings(service_name="s")
AWAY = ServiceUnavailableError("away")
SPLIT = SplitRef(job_id="j", stage="a", split_id="s")
PART = PartRef(job_id="j", stage="a", split_id="s", ordinal=0, total=1)


class Kafka:
    """Acknowledges records, or refuses them."""

    def __init__(self) -> None:
        self.topics: list[str] = []
        self.error: ServiceError | None = None

    def emit(self, records: Sequence[OutgoingRecord], timeout: float) -> list[ServiceError | None]:
        self.topics += [record.topic for record in records if self.error is None]
        return [self.error] * len(records)


class World:
    """A ledger over a table in memory, with a job of one stage."""

    def __init__(self) -> None:
        wire: Any = FakeDynamoDB()
        self.store = JobStore(SETTINGS, table=Table("jobs", lambda: wire))
        self.kafka = Kafka()
        producer: Any = self.kafka
        self.ledger = Ledger(SETTINGS, self.store, producer, Patience(waits=False))
        plan = JobPlan(stages={"a": ("a",)})
        job = NewJob(job_id="j", entity_id="e", topic="t", plan=plan, submitted_at=1.0)
        assert self.ledger.open([job, job]).errors == [None, None]

    def state(self) -> JobState:
        job = self.store.records.get("j")
        assert job
        return job.state


@pytest.fixture
def world() -> World:
    return World()


def done(job_id: str = "j") -> StageDone:
    ref = StageRef(job_id=job_id, stage="a")
    return StageDone(ref=ref, task_id="t", ends_path=True, run_seconds=1, finished_at=1, worker="w")


def failed(generation: int = 0, job_id: str = "j") -> FailedTask:
    ref = StageRef(job_id=job_id, stage="a")
    return FailedTask(
        ref=ref, task_id="t", error="E", message="no", attempts=1, failed_at=1, generation=generation
    )


def kinds(closings: Sequence[Closing]) -> list[type]:
    return [type(closing) for closing in closings]


def test_a_job_is_closed_only_after_its_announcement(world: World) -> None:
    """A job whose announcement Kafka did not acknowledge is closed by the next delivery."""
    closings = world.ledger.record([EmittedTask(done=done())]).closings
    assert kinds(closings) == [JobFilled]
    world.kafka.error = AWAY
    with pytest.raises(ServiceUnavailableError):
        world.ledger.close(closings)
    assert world.state() is JobState.RUNNING
    world.kafka.error = None
    world.ledger.close(closings)
    assert world.state() is JobState.COMPLETE
    assert len(world.kafka.topics) == 1


def test_answers_are_in_the_order_of_the_tasks(world: World) -> None:
    """A job without a record is refused alone; tasks with nothing to record have no error."""
    tasks = [EmittedTask(), EmittedTask(done=done("unknown")), EmittedTask(done=done())]
    recorded = world.ledger.record(tasks)
    assert [error is None for error in recorded.errors] == [True, False, True]
    assert kinds(recorded.closings) == [JobFilled]


def test_what_an_earlier_delivery_left_open_is_closed(world: World) -> None:
    """A worker that died between recording and closing leaves both to the next delivery."""
    left_open = tuple(world.ledger.record([EmittedTask(done=done())]).closings)
    assert world.ledger.record([EmittedTask(left_open=left_open)]).closings == list(left_open)


def test_a_redriven_task_rechecks_its_job(world: World) -> None:
    """The rest of its job may have ended before, and nothing else would close it."""
    world.ledger.record([EmittedTask(done=done())])
    assert world.ledger.record([EmittedTask()]).closings == []
    assert kinds(world.ledger.record([EmittedTask(redriven="j")]).closings) == [JobFilled]


def test_a_redriven_dead_letter_rechecks_its_job(world: World) -> None:
    """Its job is failed again: once by its record, once because it was redriven."""
    assert kinds(world.ledger.fail([failed()]).closings) == [JobFailed]
    assert world.store.resumption.redrive([(StageRef(job_id="j", stage="a"), 0)]) == [None]
    recorded = world.ledger.fail([failed(generation=1), failed(generation=1, job_id="unknown")])
    assert [error is None for error in recorded.errors] == [True, False]
    assert kinds(recorded.closings) == [JobFailed, JobFailed]
    world.ledger.close(recorded.closings)
    assert world.kafka.topics == [SETTINGS.topic("errors")] * 2


def test_without_a_dispatch_a_filled_split_stays_open(world: World) -> None:
    """Its gather is run by the process that filled it, which marks it closed afterwards."""
    world.store.splits.seal(SPLIT, "{}", "0", ["1"])
    closings = world.ledger.record([EmittedTask(done=PartDone(ref=PART))]).closings
    assert closings == [SplitFilled(split=SPLIT, total=1)]
    world.ledger.close(closings)
    assert world.store.resumption.already_done([SPLIT]).refs == frozenset()
    world.ledger.mark_closed([SplitFilled(split=SPLIT, total=1)])
    assert world.store.resumption.already_done([SPLIT]).refs == {SPLIT}


def test_a_cancellation_that_was_not_announced_is_announced_by_the_next(world: World) -> None:
    """The job is cancelled at once; the caller gets the outage, and may call again."""
    world.kafka.error = AWAY
    with pytest.raises(ServiceUnavailableError):
        world.ledger.cancel("j")
    assert world.state() is JobState.CANCELLED
    world.kafka.error = None
    job = world.ledger.cancel("j")
    assert job is not None
    assert job.state is JobState.CANCELLED
    assert world.kafka.topics == [SETTINGS.topic("jobs")]
    assert world.ledger.cancel("unknown") is None
