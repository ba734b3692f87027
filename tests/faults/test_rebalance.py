"""Faults of rebalancing: a second bridge joins, a frozen one returns as if it were still a member."""

from tests.faults.world import World


def test_a_second_bridge_comes_and_goes(world: World) -> None:
    """It joins and leaves under load, twice; each task is made once and in order."""
    world.load.send()
    second = world.start("bridge")
    world.wait(lambda: second.at_work, "the second bridge at work")
    world.load.send()
    world.stop(world.bridge)
    world.load.send()
    world.verify(runs=1)


def test_a_frozen_bridge_comes_back(world: World) -> None:
    """Its partitions move meanwhile; resumed, it sends the tasks that it holds again, and SQS drops them."""
    zombie = world.bridge
    with world.wire.slow("bridge", 0.3) as slowed:
        before = slowed.hits
        world.load.send()
        world.wait(lambda: slowed.hits > before, "the bridge is at work")
        world.pass_time(1.0)
        zombie.pause()
    heir = world.start("bridge", client="heir")
    world.pass_time(world.scale.frozen)
    world.load.send()
    world.wait(lambda: heir.at_work and not any(world.observer.lag().values()), "the heir does all")
    zombie.resume()
    world.load.send()
    world.verify(runs=1)
