"""Every process is restarted in turn while work goes through, as a deployment does."""

from tests.faults.world import World


def test_a_rolling_restart_of_all(world: World) -> None:
    """SIGTERM each, a new one beside it: nothing is lost, and nothing runs twice."""
    world.load.send(seconds=0.1)
    for old in world.alive():
        new = world.start(old.kind)
        world.wait(lambda new=new: new.at_work, "the new one at work")
        world.load.send(seconds=0.1)
        world.stop(old)
    world.verify(runs=1)
