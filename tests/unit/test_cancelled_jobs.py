"""The worker's list of cancelled jobs."""

import math
import random
import uuid
from typing import Any, cast

import pytest
from botocore.exceptions import EndpointConnectionError

from benchmarks.units import item_size
from pipeline.errors import ServiceUnavailableError
from pipeline.jobs import JobPlan, JobStore, NewJob
from pipeline.jobs.table import Table
from pipeline.telemetry import metrics
from pipeline.worker import cancelled as cancelled_module
from pipeline.worker.cancelled import CLOCKS_DIFFER, EVERY, FAR_MOST, CancelledJobs, units_a_second
from tests import builders
from tests.fakes.dynamodb import FakeDynamoDB
from tests.loglines import log_lines
from tests.processes import wait_until


class Store:
    """The part of a store that is asked, and may be away."""

    def __init__(self) -> None:
        self.jobs: set[str] = set()
        self.asked: list[float] = []
        self.away = False
        self.broken = False

    def cancelled_since(self, moment: float) -> set[str]:
        self.asked.append(moment)
        if self.away:
            raise ServiceUnavailableError("away")
        if self.broken:
            raise KeyError("nobody expected it")
        return set(self.jobs) if moment == 0 else self.jobs - {"old"}


def test_all_are_known_at_the_start_and_new_ones_soon() -> None:
    """The first read has all; the next only what may be new, and what is known stays known."""
    store = Store()
    store.jobs = {"old"}
    cancelled = CancelledJobs(cast(JobStore, store), every=0.01)
    cancelled.start()
    try:
        assert "old" in cancelled
        store.jobs.add("new")
        wait_until(lambda: "new" in cancelled, "it is heard of")
        assert "old" in cancelled
        assert "another" not in cancelled
        assert store.asked[0] == 0
        assert store.asked[1] > 0
    finally:
        cancelled.close()


def test_while_dynamodb_is_away_what_is_known_holds() -> None:
    """A worker starts and works without it; what was cancelled meanwhile is read once it is back."""
    store = Store()
    store.away = True
    cancelled = CancelledJobs(cast(JobStore, store), every=0.01)
    cancelled.start()
    try:
        store.jobs = {"j"}
        wait_until(lambda: len(store.asked) > 2, "it is asked again")
        assert "j" not in cancelled
        assert set(store.asked) == {0.0}, "nothing was read yet, so all is asked for"
        store.away = False
        wait_until(lambda: "j" in cancelled, "it is heard of")
        read = len(store.asked)
        wait_until(lambda: len(store.asked) > read + 1, "it is asked again")
        assert store.asked[-1] > CLOCKS_DIFFER
    finally:
        cancelled.close()


def test_what_nobody_expected_is_said_and_the_next_look_is_made() -> None:
    """A worker in which the looking ended unseen would run what is cancelled for as long as it lives."""
    store = Store()
    cancelled = CancelledJobs(cast(JobStore, store), every=0.01)
    cancelled.start()
    try:
        with log_lines(cancelled_module) as lines:
            store.broken = True
            wait_until(lambda: lines, "it is said")
            store.jobs, store.broken = {"j"}, False
            wait_until(lambda: "j" in cancelled, "it is heard of")
        assert lines[0]["event"] == "cancelled_jobs.failed"
    finally:
        cancelled.close()


# ─── What it reads ───

#: A moment at which nothing expires.
NOW = 1_800_000_000.0


class Metered(FakeDynamoDB):
    """A table that counts the read units of queries by AWS's rules."""

    def __init__(self) -> None:
        super().__init__()
        self.units = 0.0

    def query(self, **fields: Any) -> dict[str, Any]:
        answer = super().query(**fields)
        size = sum(map(item_size, answer["Items"]))
        self.units += max(1, math.ceil(size / 4096)) * (1 if fields["ConsistentRead"] else 0.5)
        return answer


class Service:
    """A worker's list on a store of its own, and a clock that stands until it is moved."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.behind = NOW, 0.0
        self.table = Metered()
        monkeypatch.setattr("pipeline.worker.cancelled.time.time", lambda: self.now)
        self.store = JobStore(
            builders.settings(service_name="a-service-of-many-words"),
            table=Table("jobs", lambda: self.table),  # type: ignore[arg-type,return-value]
            # Of the process that cancels.
            clock=lambda: self.now - self.behind,
        )
        self.worker = CancelledJobs(self.store)
        self.worker.read()

    def cancel(self, job_id: str = "") -> str:
        """Cancel a new job."""
        job_id = job_id or str(uuid.uuid4())
        plan = JobPlan(stages={"a": ("a",)})
        self.store.records.open(
            [NewJob(job_id=job_id, entity_id="e", topic="t", plan=plan, submitted_at=self.now)]
        )
        assert self.store.cancel(job_id)
        return job_id

    def passes(self, seconds: float) -> None:
        """Let time pass, with the worker's reads."""
        for _ in range(int(seconds / EVERY)):
            self.now += EVERY
            self.worker.read()


@pytest.mark.parametrize("behind", [-300, 0, 5])
def test_a_cancelled_job_is_known_at_the_next_read(monkeypatch: pytest.MonkeyPatch, behind: float) -> None:
    """Also if the clock of the process that cancelled is ahead, or a few seconds behind."""
    service = Service(monkeypatch)
    service.passes(90)
    service.behind = behind
    job_id = service.cancel()
    service.passes(EVERY)
    assert job_id in service.worker


def test_a_cancel_of_a_slow_clock_is_known_within_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """One read in 15 to 30 goes back five minutes before the last such read, at any moment of the cancel."""
    service = Service(monkeypatch)
    service.behind = 299
    for _ in range(3 * FAR_MOST):
        job_id = service.cancel()
        service.passes(FAR_MOST * EVERY)
        assert job_id in service.worker
        service.passes(EVERY)


def test_a_read_far_back_without_an_answer_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is passed over for good because DynamoDB was away just then."""
    monkeypatch.setattr("pipeline.worker.cancelled.random.randint", lambda *_: 1)  # each is far back
    service = Service(monkeypatch)
    service.behind = 299
    job_id = service.cancel()

    def away(**fields: Any) -> None:
        raise EndpointConnectionError(endpoint_url="http://dynamodb")

    with monkeypatch.context() as patch:
        patch.setattr(service.table, "query", away)
        service.passes(2 * FAR_MOST * EVERY)
    service.passes(EVERY)
    assert job_id in service.worker


def units_counted() -> float:
    """The read units that the metric has."""
    return metrics.REGISTRY.get_sample_value("pipeline_cancelled_jobs_read_units_total") or 0


@pytest.mark.parametrize("jobs", [0, 600])
def test_what_a_worker_reads_is_what_checklist_and_metric_tell(
    monkeypatch: pytest.MonkeyPatch, jobs: int
) -> None:
    """A quarter of a unit a second where nobody cancels; each cancelled job is read about ten times."""
    random.seed(1)
    service, counted = Service(monkeypatch), 0.0
    for second in range(600):
        for _ in range(jobs // 300):
            service.cancel()
        service.now += 1
        if second == 300:  # five minutes are full now
            service.table.units, counted = 0.0, units_counted()
        if second % EVERY:
            service.worker.read()
    assert service.table.units / 300 == pytest.approx(units_a_second(jobs), rel=0.2)
    assert units_counted() - counted == pytest.approx(service.table.units, rel=0.1)
