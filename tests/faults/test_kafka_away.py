"""The Kafka broker is stopped, killed or frozen under load, and comes back."""

import pytest

from tests.faults.marks import long_only
from tests.faults.world import World


@pytest.mark.parametrize(
    "kill", [pytest.param(False, id="stopped", marks=long_only), pytest.param(True, id="killed")]
)
def test_the_broker_goes_and_comes_back(world: World, kill: bool) -> None:
    """Tasks wait with their results, the bridge with its offsets; then all goes on and nothing ran twice."""
    world.load.send(seconds=0.05)
    world.stack.stop_kafka(kill=kill)
    world.pass_time(3)
    world.stack.up()
    world.load.send()
    world.verify()


@long_only
def test_the_broker_is_frozen(world: World) -> None:
    """Connections stay, and nothing answers."""
    world.load.send(seconds=0.05)
    world.stack.freeze_kafka()
    world.pass_time(8)
    world.stack.thaw_kafka()
    world.load.send()
    world.verify()


def test_workers_die_while_the_broker_is_away(world: World) -> None:
    """What they had finished and Kafka had not acknowledged is gone with them: it runs again."""
    sent = world.load.send(seconds=0.1)
    world.wait(lambda: any(world.effects("end", each) for each in sent), "some ran")
    world.stack.stop_kafka(kill=True)
    world.pass_time(1.5)
    for worker in world.of("worker"):
        world.kill(worker)
    world.stack.up()
    for _ in range(2):
        world.start("worker")
    world.verify()
