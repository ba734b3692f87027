"""No fault at all: what the others are compared with."""

from tests.faults.world import LEASE, World


def test_undisturbed(world: World) -> None:
    """Everything comes out once, in order, and nothing is left; a long task keeps its lease."""
    world.load.send()
    world.load.send_one("crates", parts=world.scale.large_split)
    world.load.send_one("crates", parts=0)
    world.load.send_one("arrivals", entity="long", seconds=1.6 * LEASE)
    world.verify(runs=1)
