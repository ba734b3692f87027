"""Faults of user code: tasks that kill their own process, as out of memory, or the whole worker."""

import pytest

from tests.faults.marks import long_only
from tests.faults.world import World


@pytest.mark.parametrize(
    "do",
    ["kill-child", "refuse", *(pytest.param(do, marks=long_only) for do in ("early-kill-child", "fail"))],
)
def test_a_task_always_fails(world: World, do: str) -> None:
    """It ends as a visible dead letter; the tasks beside it do not."""
    world.load.send()
    for topic, more in (("arrivals", {"entity": 0}), ("parcels", {}), ("crates", {"parts": 1})):
        world.load.send_one(topic, do=do, fate="failed", **more)
    world.load.send()
    world.verify()


def test_followers_of_a_failing_head(world: World) -> None:
    """Followers are received with it each time; these are no attempts, so each may still fail twice."""
    # A group for each worker, and one more: each is received with the tasks behind its first one.
    items = []
    for group in ("first", "second", "third"):
        items.append(world.load.item("arrivals", entity=group, do="early-fail", fate="failed"))
        items += [world.load.item("arrivals", entity=group, do="early-fail-twice") for _ in range(3)]
    for worker in world.of("worker"):
        world.stop(worker)
    world.load.produce(items)
    # All are sent before the first is received: SQS delivers those behind the first one with it.
    world.wait(lambda: world.observer.depth()[0] == len(items), "all are on the queue")
    world.ready()
    world.load.send()
    world.verify()


def test_a_child_dies_once(world: World) -> None:
    """The death of a child is one attempt; the next one succeeds."""
    for topic, more in (("arrivals", {"entity": 0}), ("parcels", {}), ("crates", {"parts": 3})):
        world.load.send_one(topic, do="early-kill-child-once", **more)
    world.load.send()
    world.verify()


@long_only
def test_a_task_kills_every_worker(world: World) -> None:
    """The task is identified, and the workers survive; no task beside it is dead-lettered."""
    world.load.send()
    world.load.send_one("arrivals", entity=0, do="early-kill-worker", fate="failed")
    world.load.send()

    def staffed_and_quiet() -> bool:
        for _ in range(2 - len(world.of("worker"))):
            world.start("worker")
        return world.is_quiet()

    world.wait(staffed_and_quiet, "quiet")
    world.verify()
