"""One process sweeps at a time, and stays the one that does."""

from typing import Any

from pipeline.jobs import JobStore, Pass, Passes
from pipeline.jobs.keys import Keys
from pipeline.jobs.table import Table
from tests import builders
from tests.fakes.dynamodb import FakeDynamoDB


class World:
    """The table of one service, and processes with clocks of their own."""

    def __init__(self) -> None:
        self.now = 1e6
        self.client: Any = FakeDynamoDB()
        self.passes = self.process()

    def process(self, ahead: float = 0.0) -> Passes:
        table = Table("jobs", lambda: self.client)
        return JobStore(builders.settings(), table=table, clock=lambda: self.now + ahead).passes


def test_who_sweeps_keeps_the_turn() -> None:
    """The others have it when that one has not come back."""
    world = World()
    assert world.passes.take_turn(90, "a")
    for _ in range(5):
        world.now += 60
        assert not world.passes.take_turn(90, "b")
        assert world.passes.take_turn(90, "a")
    world.now += 91
    assert world.passes.take_turn(90, "b")
    assert not world.passes.take_turn(90, "a")


def test_a_clock_that_is_ahead_holds_no_turn() -> None:
    """A turn ends later than anybody's would: the next caller takes it, and others then wait for that one."""
    world = World()
    assert world.process(ahead=3600).take_turn(90, "a")
    assert world.passes.take_turn(90, "b")
    assert not world.passes.take_turn(90, "c")


def test_a_turn_keeps_the_pass_and_a_pass_the_turn() -> None:
    """They are one item."""
    world = World()
    assert world.passes.load() is None
    current = Pass(began_at=1.5, seen=7, worked=2.5, after="0001.000#j", open_jobs=3, ended_at=1.0, took=0.5)
    world.passes.save(current)
    assert world.passes.take_turn(90, "a")
    assert world.passes.load() == current
    world.passes.save(Pass(began_at=9.0))
    assert world.passes.load() == Pass(began_at=9.0)
    assert not world.passes.take_turn(90, "b")


def test_what_a_later_version_adds_is_passed_over() -> None:
    """It was rolled back."""
    world = World()
    key = Keys(service="s").turn("sweep")
    Table("jobs", lambda: world.client).update(key, put={"pass": {"began_at": 1.5, "colour": "red"}})
    assert world.passes.load() == Pass(began_at=1.5)


def test_a_turn_of_an_earlier_version_counts() -> None:
    """It names no holder; it ends as the others do."""
    world = World()
    key = Keys(service="s").turn("sweep")
    Table("jobs", lambda: world.client).update(key, put={"until": world.now + 60})
    assert not world.passes.take_turn(90, "a")
    world.now += 61
    assert world.passes.take_turn(90, "a")
