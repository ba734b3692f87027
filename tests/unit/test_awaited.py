"""The groups of a job's tasks follow from its record, and only from a record that is certain."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from pipeline.author.decorator import stage
from pipeline.author.registry import Registry
from pipeline.author.stages import NewPart
from pipeline.deadletters.awaited import UnknownTasksError, find_awaited
from pipeline.jobs import (
    Job,
    JobStore,
    NewJob,
    PartDone,
    PartRef,
    PartResult,
    SplitRef,
    StageDone,
    StageRef,
)
from pipeline.jobs.table import Table
from pipeline.wire import identity
from pipeline.wire.events import source_of
from tests import builders
from tests.fakes.dynamodb import FakeDynamoDB

EVENT = ("/shop", "e-1")
SETTINGS = builders.settings(sqs_task_queue_url="http://q/1/tasks.fifo", topic_prefix="x-")


class World:
    """A job of three stages: a run, a split in order on a queue of its own, an end."""

    def __init__(self) -> None:
        self.registry = registry = Registry()

        @stage(consumes="orders", emits="priced", registry=registry)
        def price(order: int) -> int:
            return order

        @stage(consumes="priced", emits="packed", ordered=True, queue="slow.fifo", registry=registry)
        def pack(item: int) -> int:
            return item

        @pack.split
        def items(count: int) -> list[int]:
            return list(range(count))

        @pack.gather
        def box(count: int, packed: Iterable[int]) -> int:
            return count

        @stage(consumes="packed", registry=registry)
        def send(count: int) -> None: ...

        fake: Any = FakeDynamoDB()
        self.store = JobStore(SETTINGS, table=Table("jobs", lambda: fake))
        self.open()

    def open(self, event: tuple[str, str] | None = EVENT, job_id: str = "j") -> None:
        plan = self.registry.plan("orders")
        job = NewJob(job_id=job_id, entity_id="ada", topic="orders", plan=plan, submitted_at=1.0, event=event)
        assert self.store.records.open([job]).errors == [None]

    def find(self, change: Any = lambda job: job, job_id: str = "j") -> tuple[set[tuple[str, str]], set[str]]:
        found = self.store.listing.progress(job_id)
        assert found
        job: Job = change(found[0])
        awaited = find_awaited(SETTINGS, self.registry, self.store, job, found[1])
        return set(awaited.groups), set(awaited.topics)

    def done(self, name: str, task_id: str, ends: bool = False, entity: str | None = None) -> None:
        ref = StageRef(job_id="j", stage=name, task_id=task_id)
        done = StageDone(
            ref=ref,
            task_id=task_id,
            ends_path=ends,
            run_seconds=0.1,
            finished_at=2.0,
            worker="w",
            entity=entity,
        )
        assert self.store.tasks.record([done]).errors == [None]

    def packed_event(self) -> tuple[str, str]:
        """The event of the split."""
        task_id = identity.task_id(*EVENT, "price", None)
        return source_of(SETTINGS.service_name, "price"), identity.emitted_event_id(task_id)


@pytest.fixture
def world() -> World:
    return World()


def test_a_job_that_began_waits_for_its_first_task(world: World) -> None:
    """In the task's own group, on the service's queue; later stages have no event yet."""
    group = identity.task_id(*EVENT, "price", None)
    assert world.find() == ({("tasks.fifo", group)}, {"x-orders"})


def test_the_next_task_follows_from_the_one_recorded(world: World) -> None:
    """The group of an ordered stage is its entity's, on the stage's own queue."""
    world.done("price", identity.task_id(*EVENT, "price", None))
    assert world.find() == ({("slow.fifo", "ada")}, {"x-priced"})


def test_an_event_with_an_entity_of_its_own_leads_to_its_group(world: World) -> None:
    """As the stage that emitted it recorded; the stages after it have it, too."""
    world.done("price", identity.task_id(*EVENT, "price", None), entity="bob")
    assert world.find() == ({("slow.fifo", "bob")}, {"x-priced"})


def test_parts_in_groups_of_their_own_are_not_looked_for(world: World) -> None:
    """A marker in the group of the event would call a job lost whose parts wait in others."""
    world.done("price", identity.task_id(*EVENT, "price", None))
    root = identity.task_id(*world.packed_event(), "pack", None)
    split = SplitRef(job_id="j", stage="pack", split_id=root)
    world.store.splits.seal(split, "{}", "1", [NewPart("1", "cyd")])
    with pytest.raises(UnknownTasksError, match="their own entities"):
        world.find()


def test_a_path_that_ended_waits_for_nothing(world: World) -> None:
    """A stage that returned None has no event, so no task follows."""
    world.done("price", identity.task_id(*EVENT, "price", None), ends=True)
    with pytest.raises(UnknownTasksError):
        world.find()


def test_an_unordered_split_waits_for_its_first_open_part(world: World) -> None:
    """And for its own message, which sends the parts; then for the gather."""
    registry = Registry()

    @stage(consumes="orders", registry=registry)
    def count(part: int) -> int:
        return part

    @count.split
    def three(order: int) -> list[int]:
        return [order] * 3

    @count.gather
    def total(order: int, parts: Iterable[int]) -> int:
        return order

    world.registry = registry
    world.open(job_id="k")
    root = identity.task_id(*EVENT, "count", None)
    assert world.find(job_id="k")[0] == {("tasks.fifo", root)}
    split = SplitRef(job_id="k", stage="count", split_id=root)
    world.store.splits.seal(split, "{}", "1", iter(["1", "1", "1"]))

    def groups(*parts: identity.Part) -> set[tuple[str, str]]:
        return {("tasks.fifo", identity.task_id(*EVENT, "count", part)) for part in parts}

    assert world.find(job_id="k")[0] == groups(None, 0)
    for ordinal in range(3):
        ref = PartRef(job_id="k", stage="count", split_id=root, ordinal=ordinal, total=3)
        result = PartResult(ref=ref, result="1", run_seconds=0.1, attempts=1)
        world.store.splits.put_results([result])
        assert world.store.tasks.record([PartDone(ref=ref)]).errors == [None]
        assert world.find(job_id="k")[0] == (groups(None, ordinal + 1) if ordinal < 2 else groups("gather"))


def test_what_is_not_certain_is_unknown(world: World) -> None:
    """An earlier version's record, a stage that is another one now, a split of another event."""
    world.open(event=None, job_id="old")
    with pytest.raises(UnknownTasksError, match="first event"):
        world.find(job_id="old")
    routes = {
        name: replace(route, ordered=True) for name, route in world.registry.plan("orders").routes.items()
    }
    with pytest.raises(UnknownTasksError, match="another one"):
        world.find(lambda job: replace(job, plan=replace(job.plan, routes=routes)))
    with pytest.raises(UnknownTasksError, match="no routes"):
        world.find(lambda job: replace(job, plan=replace(job.plan, routes={})))
    world.done("price", identity.task_id(*EVENT, "price", None))
    other = SplitRef(job_id="j", stage="pack", split_id="of-another-event")
    world.store.splits.seal(other, "{}", "1", iter(["1"]))
    with pytest.raises(UnknownTasksError, match="another event"):
        world.find()


def test_a_split_that_page_tasks_send_is_unknown(world: World) -> None:
    """A part that is not done may not have been sent yet."""
    world.done("price", identity.task_id(*EVENT, "price", None))
    source, event_id = world.packed_event()
    split = SplitRef(job_id="j", stage="pack", split_id=identity.task_id(source, event_id, "pack", None))
    world.store.splits.seal(split, "{}", "1", (str(number) for number in range(1000)))
    with pytest.raises(UnknownTasksError, match="page by page"):
        world.find()
