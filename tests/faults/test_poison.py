"""Tasks that kill: their own process, as the kernel does when memory runs out, or the whole worker."""

import pytest

from tests.faults.marks import long_only
from tests.faults.world import World


@pytest.mark.parametrize(
    "do",
    ["kill-child", "refuse", *(pytest.param(do, marks=long_only) for do in ("early-kill-child", "fail"))],
)
def test_a_task_always_fails(world: World, do: str) -> None:
    """It ends as a dead letter that a person can see; what ran beside it does not."""
    world.load.send()
    for topic, more in (("arrivals", {"entity": 0}), ("parcels", {}), ("crates", {"parts": 1})):
        world.load.send_one(topic, do=do, fate="failed", **more)
    world.load.send()
    world.verify()


def test_followers_of_a_failing_head(world: World) -> None:
    """They are received with it time and again: none of their attempts, so each may still fail twice."""
    # A group for each worker, and one more: whichever of them is received with those behind its head.
    items = []
    for group in ("first", "second", "third"):
        items.append(world.load.item("arrivals", entity=group, do="early-fail", fate="failed"))
        items += [world.load.item("arrivals", entity=group, do="early-fail-twice") for _ in range(3)]
    for worker in world.of("worker"):
        world.stop(worker)
    world.load.produce(items)
    # All are there before the first is received: SQS hands out those behind a head with it.
    world.wait(lambda: world.observer.depth()[0] == len(items), "all are on the queue")
    world.ready()
    world.load.send()
    world.verify()


def test_a_child_dies_once(world: World) -> None:
    """An attempt, and the next one does it."""
    for topic, more in (("arrivals", {"entity": 0}), ("parcels", {}), ("crates", {"parts": 3})):
        world.load.send_one(topic, do="early-kill-child-once", **more)
    world.load.send()
    world.verify()


@long_only
def test_a_task_kills_every_worker(world: World) -> None:
    """It is found out, and the workers live on; nothing beside it is given up on."""
    world.load.send()
    world.load.send_one("arrivals", entity=0, do="early-kill-worker", fate="failed")
    world.load.send()

    def staffed_and_quiet() -> bool:
        for _ in range(2 - len(world.of("worker"))):
            world.start("worker")
        return world.is_quiet()

    world.wait(staffed_and_quiet, "quiet")
    world.verify()
