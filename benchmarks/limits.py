"""The limits benchmark: the rate at which DynamoDB first refuses a write, and which partition key it is.

The table is in memory, enforces what a partition key takes, and its clock jumps from second to second. In
each second a tenth more is written than in the one before.
"""

import contextlib
import itertools
from collections.abc import Callable, Sequence
from typing import Any

from pipeline.errors import ServiceUnavailableError
from pipeline.jobs import JobFilled, JobPlan, JobStore, NewJob, PartDone, PartRef, StageDone, StageRef
from pipeline.jobs.expressions import STATEMENT_BATCH
from pipeline.jobs.table import Table
from pipeline.patience import raise_first
from pipeline.settings import load_settings
from tests.fakes.limits import Clock
from tests.fakes.throttled import ThrottledDynamoDB

#: The share of the limit of a key with which the first second begins, and the growth from second to second.
BEGIN, GROWTH = 0.1, 1.1

#: Tasks of later stages that are recorded in the second in which a write was refused.
LATER = 100

#: Jobs on the list of cancelled jobs that is read.
CANCELLED = 100

#: Parts of the split whose parts are recorded one by one.
PARTS = 1_000_000_000

_PLAN = JobPlan(stages=dict.fromkeys(("first", "second", "third"), ("third",)))
_ENVIRONMENT = {
    "SERVICE_NAME": "limits",
    "KAFKA_BOOTSTRAP_SERVERS": "nowhere:1",
    "KAFKA_CONSUMER_GROUP": "limits",
    "SQS_TASK_QUEUE_URL": "http://nowhere/1/tasks.fifo",
    "SQS_DLQ_URL": "http://nowhere/1/dlq.fifo",
}


def run(writes: float, reads: float) -> list[dict[str, Any]]:
    """Return a row for each kind of work; ``writes`` and ``reads``: units a second of a partition key."""
    return [_measure(name, work, writes, reads) for name, work in _WORKS.items()]


class World:
    """A store on a table that enforces its limits."""

    def __init__(self, writes: float, reads: float) -> None:
        self.clock = Clock()
        self.table = ThrottledDynamoDB(self.clock, writes=writes, reads=reads)
        client: Any = self.table
        self.store = JobStore(
            load_settings(_ENVIRONMENT), table=Table("jobs", lambda: client), clock=self.clock
        )
        self.numbers = itertools.count()

    def new_jobs(self, count: int) -> list[NewJob]:
        """Return jobs that are not opened yet."""
        names = [f"job-{next(self.numbers)}" for _ in range(count)]
        now = self.clock()
        return [NewJob(job_id=name, entity_id="e", topic="t", plan=_PLAN, submitted_at=now) for name in names]

    def open(self, count: int) -> list[str]:
        """Open jobs; return their ids."""
        jobs = self.new_jobs(count)
        raise_first(self.store.records.open(jobs).errors)
        return [job.job_id for job in jobs]

    def record(self, job_ids: Sequence[str], stage: str) -> list[JobFilled]:
        """Record a stage of jobs as done; return the jobs that this fills."""
        done = [stage_done(self, job_id, stage) for job_id in job_ids]
        recorded = self.store.tasks.record(done)
        raise_first(recorded.errors)
        return [closing for closing in recorded.closings if isinstance(closing, JobFilled)]


def _jobs(world: World, count: int) -> None:
    """Run whole jobs of three stages."""
    for first in range(0, count, STATEMENT_BATCH):
        job_ids = world.open(min(STATEMENT_BATCH, count - first))
        world.record(job_ids, "first")
        world.record(job_ids, "second")
        raise_first(world.store.close(world.record(job_ids, "third")))


def _cancels(world: World, count: int) -> None:
    """Open jobs and cancel them."""
    for first in range(0, count, STATEMENT_BATCH):
        for job_id in world.open(min(STATEMENT_BATCH, count - first)):
            world.store.cancel(job_id)


def _parts(world: World, count: int) -> None:
    """Record parts of one split one by one, in order, so that they share a leaf of the counter."""
    for _ in range(count):
        ref = PartRef(job_id="j", stage="s", split_id="split", ordinal=next(world.numbers), total=PARTS)
        raise_first(world.store.tasks.record([PartDone(ref=ref)]).errors)


def _reads(world: World, count: int) -> None:
    """Read the list of cancelled jobs, as each worker does every two seconds."""
    for _ in range(count):
        world.store.cancelled_since(0.0)


_WORKS: dict[str, Callable[[World, int], None]] = {
    "jobs of 3 stages": _jobs,
    "jobs that are cancelled": _cancels,
    "parts of one split": _parts,
    f"reads of {CANCELLED:,} cancelled jobs": _reads,
}


def _measure(name: str, work: Callable[[World, int], None], writes: float, reads: float) -> dict[str, Any]:
    world = World(writes, reads)
    later = _prepare(world, writes)
    rate, passed = BEGIN * writes, 0
    with contextlib.suppress(ServiceUnavailableError):
        while True:
            world.clock.jump(1.0)
            work(world, round(rate))
            passed, rate = round(rate), rate * GROWTH
    return {
        "benchmark": "limits",
        "of": name,
        "writes": writes,
        "reads": reads,
        "passed_per_second": passed,
        "refused_key": next(iter(world.table.throttled)).split("/", 1)[1],
        "later_stages_recorded": f"{_record_later(world, later):,} of {len(later):,}",
    }


def _prepare(world: World, writes: float) -> list[str]:
    """Cancel jobs, and open those whose later stages are recorded, as slowly as the limit allows."""
    step = max(1, round(BEGIN * writes))
    later: list[str] = []
    for first in range(0, LATER, step):
        world.clock.jump(1.0)
        later += world.open(min(step, LATER - first))
    for first in range(0, CANCELLED, step):
        world.clock.jump(1.0)
        _cancels(world, min(step, CANCELLED - first))
    return later


def _record_later(world: World, job_ids: Sequence[str]) -> int:
    """Record a stage of each job now; return how many DynamoDB took."""
    done = [stage_done(world, job_id, "first") for job_id in job_ids]
    return sum(error is None for error in world.store.tasks.record(done).errors)


def stage_done(world: World, job_id: str, stage: str) -> StageDone:
    """Return a stage's good end, now."""
    return StageDone(
        ref=StageRef(job_id=job_id, stage=stage),
        task_id=job_id,
        ends_path=stage == "third",
        run_seconds=0.1,
        finished_at=world.clock(),
        worker="w",
    )
