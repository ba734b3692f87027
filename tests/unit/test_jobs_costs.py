"""The cost of a job in the table: its requests, and the write units by AWS's rules, counted exactly."""

import base64
import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from benchmarks.units import write_units
from pipeline.jobs import (
    JobFilled,
    JobPlan,
    JobStore,
    NewJob,
    PartDone,
    PartRef,
    PartResult,
    SplitFilled,
    SplitRef,
    StageDone,
    StageRef,
)
from pipeline.jobs.dynamodb import FREQUENT
from pipeline.jobs.table import Table
from tests import builders
from tests.fakes.dynamodb import FakeDynamoDB

PLAN = JobPlan(stages={"a": ("c",), "b": ("c",), "c": ("c",)})


class Meter(FakeDynamoDB):
    """A table that counts requests by operation, and write units."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: Counter[str] = Counter()
        self.units = 0.0

    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        operation = "".join(word.capitalize() for word in name.split("_"))
        if operation not in FREQUENT:
            return value

        def counted(**fields: Any) -> Any:
            answer = value(**fields)
            self.requests[operation] += 1
            units = write_units(f"DynamoDB_20120810.{operation}", _json(fields), _json(answer))
            self.units += sum(units.values())
            return answer

        return counted


def _json(fields: Any) -> bytes:
    return json.dumps(fields, default=lambda value: base64.b64encode(value).decode()).encode()


def store_on(meter: Meter) -> JobStore:
    """A store, its job opened."""
    store = JobStore(builders.settings(service_name="test"), table=Table("jobs", lambda: meter))  # type: ignore[arg-type,return-value]
    store.records.open([NewJob(job_id="j", entity_id="e", topic="t", plan=PLAN, submitted_at=1.0)])
    return store


def done(stage: str, gather: bool = False) -> StageDone:
    """A stage's good end."""
    ref = StageRef(job_id="j", stage=stage, gather=gather)
    return StageDone(
        ref=ref, task_id="t", ends_path=stage == "c", run_seconds=0.1, finished_at=1.0, worker="w"
    )


def close(store: JobStore, closings: Sequence[object]) -> None:
    """Close what is filled."""
    filled = [closing for closing in closings if isinstance(closing, SplitFilled | JobFilled)]
    assert store.close(filled) == [None]


def test_a_job_of_three_stages_costs_eight_units() -> None:
    """Opened with its entry in the index 2, a record a stage 3, closed with the entry moved 3."""
    meter = Meter()
    store = store_on(meter)
    for stage in ("a", "b"):
        assert store.tasks.record([done(stage)]).closings == []
    close(store, store.tasks.record([done("c")]).closings)
    assert meter.units == 8
    assert meter.requests == {"BatchExecuteStatement": 2, "BatchWriteItem": 2, "UpdateItem": 1}


def test_a_split_of_four_small_parts_costs_fourteen_units_at_most() -> None:
    """A write a part that ends alone, with its result; the gather reads one item for all of them."""
    meter = Meter()
    store = store_on(meter)
    store.tasks.record([done("a")])
    split = SplitRef(job_id="j", stage="b", split_id="s")
    layout = store.splits.unsealed(split)
    assert layout is not None
    sealed = store.splits.seal(split, "{}", "{}", map(str, range(4)), layout=layout)
    for ordinal in range(4):
        ref = PartRef(job_id="j", stage="b", split_id="s", ordinal=ordinal, total=4)
        result = PartResult(ref=ref, result=str(ordinal), run_seconds=0.1, attempts=1)
        closings = store.tasks.record([PartDone(ref=ref, result=result)]).closings
    close(store, closings)
    assert list(store.splits.results(sealed.split, sealed.total)) == ["0", "1", "2", "3"]
    store.tasks.record([done("b", gather=True)])
    close(store, store.tasks.record([done("c")]).closings)
    assert meter.units == 14
    assert meter.requests == {
        "BatchExecuteStatement": 3,
        "BatchGetItem": 1,
        "BatchWriteItem": 2,
        "GetItem": 1,
        "PutItem": 1,
        "UpdateItem": 5,
    }


def test_many_jobs_are_opened_and_closed_in_few_requests() -> None:
    """25 in a request; each end of a path is a request of its own, because its answer says what it ended."""
    meter = Meter()
    store = store_on(meter)
    meter.requests.clear()
    ids = [f"j{number}" for number in range(50)]
    new = [NewJob(job_id=each, entity_id="e", topic="t", plan=PLAN, submitted_at=1.0) for each in ids]
    store.records.open(new)
    ends = [
        StageDone(
            ref=StageRef(job_id=each, stage="c"),
            task_id="t",
            ends_path=True,
            run_seconds=0.1,
            finished_at=1.0,
            worker="w",
        )
        for each in ids
    ]
    filled = [each for each in store.tasks.record(ends).closings if isinstance(each, JobFilled)]
    assert len(filled) == 50
    assert store.close(filled) == [None] * 50
    assert meter.requests == {"BatchExecuteStatement": 4, "UpdateItem": 50}
