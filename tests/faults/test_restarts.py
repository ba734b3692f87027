"""A fault of deployment: every process is restarted in turn while work goes through."""

from tests.faults.world import World


def test_a_rolling_restart_of_all(world: World) -> None:
    """Each process gets SIGTERM beside a new one: nothing is lost, and nothing runs twice."""
    world.load.send(seconds=0.1)
    for old in world.alive():
        new = world.start(old.kind)
        world.wait(lambda new=new: new.at_work, "the new one at work")
        world.load.send(seconds=0.1)
        world.stop(old)
    world.verify(runs=1)
