"""The plans of settled tasks: a job's record is read once, and only where the plan is not known."""

from collections.abc import Collection, Mapping
from typing import cast

import pytest

from pipeline.author.decorator import stage
from pipeline.author.registry import Registry
from pipeline.ledger import Ledger
from pipeline.wire.plans import JobPlan, Route, plan_from
from pipeline.wire.taskmessage import TaskHeader
from pipeline.worker.settle import plans as module
from pipeline.worker.settle.plans import Plans

#: The plan of another version: its ``price`` leads on to a stage that is not here.
OTHER = plan_from(
    [Route(name="price", consumes="placed", emits="priced"), Route(name="book", consumes="priced")], "placed"
)


class Records:
    """The part of a ledger that reads plans."""

    def __init__(self, plans: Mapping[str, JobPlan]) -> None:
        self._plans = plans
        self.asked: list[tuple[str, ...]] = []

    def plans(self, job_ids: Collection[str]) -> Mapping[str, JobPlan]:
        """Return the plans of the jobs that have a record."""
        self.asked.append(tuple(job_ids))
        return {job_id: self._plans[job_id] for job_id in job_ids if job_id in self._plans}


def header(job_id: str, plan: str | None) -> TaskHeader:
    """Return the header of a task of a job."""
    return TaskHeader(
        job_id=job_id,
        stage="price",
        role="run",
        event_source="/orders",
        event_id="e-1",
        entity_id="order-1",
        topic="placed",
        partition=0,
        offset=0,
        submitted_at=1.0,
        plan=plan,
    )


def made(records: Records) -> Plans:
    """Return the plans of a worker that has ``price``."""
    registry = Registry()

    @stage(consumes="placed", emits="priced", registry=registry)
    def price(total: int) -> int:
        return total

    return Plans(registry, cast(Ledger, records))


def test_a_task_that_names_no_plan_costs_one_read_of_its_job() -> None:
    """A batch asks before it emits and before it records."""
    records = Records({"old": OTHER})
    plans = made(records)
    for _ in range(2):
        assert plans.of([header("old", None)]) == {"old": OTHER}
    assert records.asked == [("old",)]


def test_a_plan_that_was_read_is_known_by_its_id() -> None:
    """The next job of it needs no read."""
    records = Records({"first": OTHER})
    plans = made(records)
    plans.of([header("first", OTHER.id)])
    assert plans.of([header("second", OTHER.id)]) == {"second": OTHER}
    assert records.asked == [("first",)]


def test_a_job_without_a_record_has_the_plan_of_the_stages_here() -> None:
    """The record expired; its tasks end as this version has them."""
    plans = made(Records({}))
    assert plans.of([header("gone", None)])["gone"].ends_path("price")


def test_plans_kept_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest is read again."""
    monkeypatch.setattr(module, "KEPT", 2)
    records = Records(dict.fromkeys("abc", OTHER))
    plans = made(records)
    for name in "abca":
        plans.of([header(name, None)])
    assert records.asked == [("a",), ("b",), ("c",), ("a",)]
