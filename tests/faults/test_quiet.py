"""The baseline: no fault."""

from tests.faults.world import LEASE, World


def test_undisturbed(world: World) -> None:
    """Everything comes out once, in order, and nothing is left; long tasks keep their leases."""
    world.load.send()
    world.load.send_one("crates", parts=world.scale.large_split)
    world.load.send_one("crates", parts=0)
    for number in range(4):
        world.load.send_one("arrivals", entity=f"long-{number}", seconds=1.6 * LEASE)
    world.verify(runs=1)
