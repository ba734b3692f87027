"""No fault at all: what the others are compared with."""

from tests.faults.world import World


def test_undisturbed(world: World) -> None:
    """Everything comes out once, in order, and nothing is left; a split that needs a tree is counted too."""
    world.load.send()
    world.load.send_one("crates", parts=world.scale.large_split)
    world.load.send_one("crates", parts=0)
    world.verify(runs=1)
