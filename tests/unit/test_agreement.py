"""The agreement of bridges: which plans one follows, and which changes of a queue it refuses."""

from dataclasses import replace

import pytest

from pipeline.bridge.agreement import Agreement
from pipeline.bridge.knownplans import KnownPlans
from pipeline.errors import ConfigurationError
from pipeline.jobs.deployments import GONE_AFTER, Deployments
from pipeline.jobs.keys import Keys
from pipeline.jobs.table import Table
from pipeline.wire.plans import JobPlan, Route, plan_from
from tests.fakes.dynamodb import FakeDynamoDB

A = Route(name="a", consumes="t1", emits="t2")
F = Route(name="f", consumes="t1")
ORDERED = Route(name="o", consumes="t1", ordered=True)
MOVED = replace(ORDERED, queue="own.fifo")


class World:
    """A table, queues by depth, and a clock."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.depths: dict[str, int] = {}
        wire = FakeDynamoDB()
        table = Table("jobs", lambda: wire)  # type: ignore[arg-type,return-value]
        self.deployments = Deployments(table, Keys(service="shop"), lambda: 9_999, lambda: self.now)
        self.started: list[Agreement] = []

    def bridge(self, *routes: Route) -> Agreement:
        agreement = Agreement(
            routes, self.deployments, "tasks.fifo", lambda name: self.depths.get(name, 0), lambda: self.now
        )
        agreement.start()
        self.started.append(agreement)
        return agreement


@pytest.fixture
def world() -> World:
    """No bridge runs."""
    return World()


def stages(plan: JobPlan) -> list[str]:
    return list(plan.stages)


def test_an_old_bridge_begins_jobs_with_the_new_stages(world: World) -> None:
    """Both bridges of a rolling deployment make the new stage's tasks, also the one without its code."""
    old = world.bridge(A)
    assert stages(old.plans.beginning("t1")) == ["a"]
    world.now += 10
    new = world.bridge(A, F)
    old.announce()
    assert stages(old.plans.beginning("t1")) == ["a", "f"]
    assert old.plans.beginning("t1").id == new.plans.beginning("t1").id
    assert [route.queue for route in old.plans.routes(old.plans.beginning("t1"), "t1")] == ["tasks.fifo"] * 2


def test_plans_of_all_deployments_are_known_by_id(world: World) -> None:
    """An event of a job that an earlier version opened needs no read."""
    world.bridge(A)
    world.now += 86_400
    new = world.bridge(A, F)
    for routes in ([A], [A, F]):
        plan = plan_from(routes, "t1")
        assert new.plans.find(plan.id) == plan
    assert new.plans.find("0" * 16) is None
    assert new.plans.find(None) is None


def test_topics_left_behind_are_known_and_begin_no_job(world: World) -> None:
    """Jobs of an earlier version go on there; an event that would begin one is passed over."""
    world.bridge(A, Route(name="c", consumes="t2"))
    world.now += 86_400
    new = world.bridge(A)
    assert set(new.plans.topics) == {"t1", "t2"}
    assert stages(new.plans.beginning("t2")) == []


def test_a_topic_that_no_deployment_knows_any_more_begins_no_job() -> None:
    """Its record expired while the bridge still consumes the topic."""
    plans = KnownPlans([A])
    plans.follow([A], [[Route(name="old", consumes="t9")]])
    plans.follow([A], [])
    for tombstone in (False, True):
        assert stages(plans.beginning("t9", tombstone=tombstone)) == []


def test_a_queue_cannot_change_while_a_bridge_sends_to_it(world: World) -> None:
    """The order of an entity cannot be kept across two queues."""
    world.bridge(ORDERED)
    with pytest.raises(ConfigurationError, match=r"from tasks\.fifo to own\.fifo, but a bridge that sends"):
        world.bridge(MOVED)


def test_a_queue_cannot_change_while_tasks_wait_on_it(world: World) -> None:
    """The workers must have emptied the old queue."""
    world.bridge(ORDERED)
    world.now += GONE_AFTER + 1
    world.depths["tasks.fifo"] = 12
    with pytest.raises(ConfigurationError, match="but 12 tasks wait on it"):
        world.bridge(MOVED)
    world.depths.clear()
    world.bridge(MOVED)


def test_the_queue_of_an_unordered_stage_may_change(world: World) -> None:
    """Nothing is promised about its order."""
    world.bridge(A)
    world.bridge(replace(A, queue="own.fifo"))


def test_the_queue_is_the_current_one(world: World) -> None:
    """A job's plan does not pin the queue: the one that was replaced has no worker left."""
    plans = KnownPlans([A])
    pinned = plan_from([replace(A, queue="old.fifo")], "t1")
    plans.follow([replace(A, queue="new.fifo", is_split=True)], [[A]])
    (route,) = plans.routes(pinned, "t1")
    assert (route.queue, route.is_split) == ("new.fifo", True)


def test_a_record_without_routes_follows_the_current_deployment() -> None:
    """Of a job that a version before ADR 20 opened, the stages that it names get tasks."""
    plans = KnownPlans([A, F])
    old = JobPlan.read([["a", ["a"]]])
    assert [route.name for route in plans.routes(old, "t1")] == ["a"]
