"""A split of any number of parts takes the same memory: what the engine holds of it has a limit."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from benchmarks.hugesplit import HugeJob, quiet
from benchmarks.hugetable import HugeTable
from benchmarks.measure import BenchmarkError
from pipeline.author.registry import REGISTRY
from pipeline.inline.runtime import InlineRuntime
from pipeline.inline.stagerun import Ended, StageRun
from pipeline.jobs.keys import FAN_OUT
from pipeline.jobs.splits import FEWEST_OPEN, PAGE_PARTS, PAGES_AT_ONCE
from pipeline.jobs.table import AHEAD
from pipeline.patience import Patience
from pipeline.transport.lease import Lease
from pipeline.worker.child.outcome import Succeeded

#: More than is held at once in any phase, by far.
PARTS = 3_000


@pytest.fixture(autouse=True)
def without_logs() -> Iterator[None]:
    with quiet():
        yield


def test_a_worker_holds_a_few_pages_of_a_split_however_many_parts_it_has() -> None:
    """Parts that are made go to pages, those sent are limited by the window, results come leaf by leaf."""
    job = HugeJob(PARTS)
    job.run()
    # The part just made may be the first of a page that is not due yet.
    assert job.most_unwritten <= PAGES_AT_ONCE * PAGE_PARTS + 1
    # A page task's parts may still be there when the one behind them runs and sends more.
    assert job.queue.most <= (FEWEST_OPEN + 1) * (PAGE_PARTS + 1)
    assert job.most_unread <= (AHEAD + 1) * FAN_OUT
    assert [row["parts"] for row in job.rows(1.0)] == [PARTS] * 3


def test_a_part_that_is_not_there_fails_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """The figures of a run that lost something would say nothing."""
    monkeypatch.setattr(HugeJob, "_receive", lambda _: [])
    with pytest.raises(BenchmarkError, match="0 of 1,000 parts ran"):
        HugeJob(1_000).run()


class Children:
    """Run the tasks of a huge job here, and count what their run knows of tasks by then."""

    processes = 50

    def __init__(self, job: HugeJob) -> None:
        self._job = job
        self.run_of_stage: Any = None
        self.most_known = 0

    def run(self, lease: Lease, _traceparent: str | None) -> Callable[[], Succeeded]:
        self.most_known = max(self.most_known, len(self.run_of_stage._counts))
        return lambda: self._job.run_task(lease)


def test_a_stage_without_sqs_forgets_parts_that_are_done() -> None:
    """It knows the attempts of those that run now, of the split and of parts that failed."""
    job = HugeJob(1_000)
    children: Any = Children(job)
    producer: Any = job.topics
    runtime = InlineRuntime(job.settings, REGISTRY, job.store, producer, children, Patience())
    task, _ = job.begin()
    children.run_of_stage = StageRun(runtime, task, "tasks.fifo", mark=False, is_lost=lambda: False)
    assert children.run_of_stage.proceed() == Ended()
    assert children.most_known <= children.processes + 1
    assert len(job.topics.of("bench-sums")) == 1


def test_the_table_in_bits_refuses_what_the_split_is_not() -> None:
    """A wrong result, page or leaf would be answered as if it were right."""
    table = HugeTable(1_000, lambda ordinal: str(ordinal * ordinal))
    key = {"pk": {"S": "huge/R#s#0"}, "sk": {"S": "000000003"}}
    table.items["huge/R#s#0", "000000003"] = {**key, "result": {"S": "9"}}
    assert table.get_item(Key=key)["Item"] == {**key, "result": {"S": "9"}}
    with pytest.raises(AssertionError, match="the result of part 000000004"):
        table.items["huge/R#s#0", "000000004"] = {**key, "result": {"S": "9"}}
