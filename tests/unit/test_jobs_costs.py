"""The cost of a job in the table: its requests, and the units by AWS's rules, exactly those of the ledger."""

import base64
import json
import threading
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from benchmarks.units import read_units, write_units
from pipeline.capacity import Shape, bill, steps_of
from pipeline.capacity.costs import ENTITY_WRITES
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
from pipeline.jobs.keys import FAN_OUT
from pipeline.jobs.table import Table
from tests import builders
from tests.fakes.dynamodb import FakeDynamoDB

PLAN = JobPlan(stages={"a": ("c",), "b": ("c",), "c": ("c",)})


class Meter(FakeDynamoDB):
    """A table that counts requests by operation, and units."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: Counter[str] = Counter()
        self.units = 0.0
        self.reads = 0.0
        # Large batches are asked for on several threads.
        self.lock = threading.Lock()

    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        operation = "".join(word.capitalize() for word in name.split("_"))
        if operation not in FREQUENT:
            return value

        def counted(**fields: Any) -> Any:
            with self.lock:
                answer = value(**fields)
                asked = operation, _json(fields), _json(answer)
                self.requests[operation] += 1
                self.units += sum(write_units(*asked).values())
                self.reads += read_units(*asked)
            return answer

        return counted


def _json(fields: Any) -> bytes:
    return json.dumps(fields, default=lambda value: base64.b64encode(value).decode()).encode()


def store_on(meter: Meter, **changes: Any) -> JobStore:
    """A store, its job opened."""
    store = JobStore(builders.settings(service_name="test", **changes), table=Table("jobs", lambda: meter))  # type: ignore[arg-type,return-value]
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


#: As long as those of real splits: reads cost by bytes.
SPLIT_ID = "0b2c2ef6-6b7e-5f0a-8d66-1f3c3d0a4c11"

#: Steps of the ledger that the processes make, not the store alone.
ELSEWHERE = ("send tasks", "send parts", "delete tasks", "read the seal")


def ledger(shape: Shape, leaf_writes: float | None = None) -> dict[str, float]:
    """What the ledger says that the store asks for."""
    return bill(step for step in steps_of(shape, leaf_writes) if step.name not in ELSEWHERE)


def measured(meter: Meter) -> Counter[str]:
    """The same, as it was asked for."""
    return meter.requests + Counter({"write units": int(meter.units), "read units": int(meter.reads)})


def test_a_job_of_three_stages_costs_eight_units() -> None:
    """Opened with its entry in the index 2, a record a stage 3, closed with the entry moved 3."""
    meter = Meter()
    store = store_on(meter)
    for stage in ("a", "b"):
        assert store.tasks.record([done(stage)]).closings == []
    close(store, store.tasks.record([done("c")]).closings)
    assert meter.units == 8
    assert measured(meter) == ledger(Shape(stages=3))


def test_a_job_in_the_index_by_entity_costs_a_unit_more() -> None:
    """When it is opened; its entry stays as it is when the job ends."""
    meter = Meter()
    store = store_on(meter, dynamodb_entity_index_since="2026-03-01")
    assert meter.units == 2 + ENTITY_WRITES
    close(store, store.tasks.record([done("a"), done("b"), done("c")]).closings)
    assert meter.units == ledger(Shape(stages=3))["write units"] + ENTITY_WRITES


def test_a_split_of_four_small_parts_costs_fourteen_units_at_most() -> None:
    """A write a part that ends alone, with its result; the gather reads one item for all of them."""
    meter = Meter()
    store = store_on(meter)
    store.tasks.record([done("a")])
    run_split(store, parts=4, together=1)
    store.tasks.record([done("b", gather=True)])
    close(store, store.tasks.record([done("c")]).closings)
    assert meter.units == 14
    assert measured(meter) == ledger(Shape(stages=3, parts=4, size=1))


@pytest.mark.parametrize("parts", [9, 400, 2_000])
def test_a_split_with_results_of_their_own_costs_what_the_ledger_says(parts: int) -> None:
    """A write a part for its result; 100 parts that end together are counted in one write, or two."""
    meter = Meter()
    store = store_on(meter)
    run_split(store, parts=parts, together=100)
    store.tasks.record([done("b", gather=True)])
    close(store, store.tasks.record([done("c")]).closings)
    leaf_writes = len({(ordinal // 100, ordinal // FAN_OUT) for ordinal in range(parts)})
    expected = ledger(Shape(stages=2, parts=parts, size=len(str(parts))), leaf_writes)
    # 25 results are stored in one request.
    expected["BatchExecuteStatement"] += sum(-(-len(each) // 25) for each in batched(parts, 100)) - parts
    assert measured(meter) == expected


def batched(parts: int, together: int) -> list[range]:
    """Ordinals that are recorded together."""
    return [range(at, min(parts, at + together)) for at in range(0, parts, together)]


def run_split(store: JobStore, parts: int, together: int) -> None:
    """Split stage b, run the parts, and gather their results, each its ordinal."""
    split = SplitRef(job_id="j", stage="b", split_id=SPLIT_ID)
    layout = store.splits.unsealed(split)
    assert layout is not None
    sealed = store.splits.seal(split, "{}", "{}", map(str, range(parts)), layout=layout)
    sent = [ordinal for page in range(sealed.pages) for ordinal, _, _ in store.splits.page(sealed, page)]
    assert len(sent) + len(sealed.inline) == parts
    closings: list[object] = []
    for ordinals in batched(parts, together):
        ended = [part(split, ordinal, parts) for ordinal in ordinals]
        if not sealed.keeps:
            assert not any(store.splits.put_results(ended))
        kept = [PartDone(ref=each.ref, result=each if sealed.keeps else None) for each in ended]
        closings += store.tasks.record(kept).closings
    close(store, closings)
    assert list(store.splits.results(sealed.split, sealed.total)) == list(map(str, range(parts)))


def part(split: SplitRef, ordinal: int, total: int) -> PartResult:
    """A part that is done."""
    ref = PartRef(
        job_id=split.job_id, stage=split.stage, split_id=split.split_id, ordinal=ordinal, total=total
    )
    return PartResult(ref=ref, result=str(ordinal), run_seconds=0.1, attempts=1)


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
