"""Deployments: which version of the stages the bridges of a service follow."""

import pytest

from pipeline.jobs.deployments import GONE_AFTER, Deployments, current, deployment_id
from pipeline.jobs.keys import Keys
from pipeline.jobs.table import Table
from pipeline.wire.plans import Route
from tests.fakes.dynamodb import FakeDynamoDB

A = Route(name="a", consumes="t1", emits="t2")
F = Route(name="f", consumes="t1", queue="own.fifo", ordered=True)
OLD, NEW = (A,), (A, F)


class World:
    """A table, a clock, and what bridges do."""

    def __init__(self) -> None:
        self.now = 1_000.0
        wire = FakeDynamoDB()
        table = Table("jobs", lambda: wire)  # type: ignore[arg-type,return-value]
        self.deployments = Deployments(table, Keys(service="shop"), lambda: 9_999, lambda: self.now)
        self.bridges: dict[str, tuple[tuple[Route, ...], float]] = {}

    def start(self, name: str, routes: tuple[Route, ...]) -> None:
        self.bridges[name] = (routes, self.deployments.first_seen(routes))
        self.announce()

    def stop(self, name: str) -> None:
        del self.bridges[name]

    def announce(self) -> None:
        for routes, first_at in self.bridges.values():
            self.deployments.announce(routes, first_at)

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.announce()

    @property
    def followed(self) -> str | None:
        found = current(self.deployments.all(), self.now)
        return found.id if found else None


@pytest.fixture
def world() -> World:
    """No bridge runs."""
    return World()


def test_the_newest_deployment_is_followed(world: World) -> None:
    """During a rolling deployment every bridge follows the version that started last."""
    assert world.followed is None
    world.start("old", OLD)
    assert world.followed == deployment_id(OLD)
    world.pass_time(100)
    world.start("new", NEW)
    assert world.followed == deployment_id(NEW)
    world.pass_time(100)
    assert world.followed == deployment_id(NEW)


def test_a_bridge_that_restarts_does_not_turn_the_deployment_back(world: World) -> None:
    """An old bridge that comes back while others of its version run is no newer than before."""
    world.start("old-1", OLD)
    world.start("old-2", OLD)
    world.pass_time(100)
    world.start("new", NEW)
    world.pass_time(5)
    world.stop("old-1")
    world.pass_time(5)
    world.start("old-1", OLD)
    assert world.followed == deployment_id(NEW)


def test_a_rollback_is_followed(world: World) -> None:
    """When no bridge of the newer version runs any more, the older one counts again."""
    world.start("old", OLD)
    world.pass_time(100)
    world.start("new", NEW)
    world.pass_time(5)
    world.stop("new")
    world.pass_time(GONE_AFTER - 1)
    assert world.followed == deployment_id(NEW)
    world.pass_time(2)
    assert world.followed == deployment_id(OLD)
    world.pass_time(100)
    world.start("new", NEW)
    assert world.followed == deployment_id(NEW)


def test_deployments_that_are_gone_are_remembered(world: World) -> None:
    """The topics of earlier versions are known as long as their jobs may be open."""
    world.start("old", OLD)
    world.stop("old")
    world.pass_time(86_400)
    world.start("new", NEW)
    assert {each.routes for each in world.deployments.all()} == {OLD, NEW}


def test_the_order_of_stages_makes_no_other_deployment() -> None:
    """Two bridges that import the same stages in another order are one deployment."""
    assert deployment_id((A, F)) == deployment_id((F, A))
    assert deployment_id((A,)) != deployment_id((A, F))
