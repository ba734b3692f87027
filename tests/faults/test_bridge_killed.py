"""A bridge is killed with kill -9 at each step: what was not committed is repeated, nothing doubled."""

import pytest

from tests.faults.mishaps import Hold, skipping
from tests.faults.world import World


@pytest.mark.parametrize(
    ("step", "actions", "server", "after", "passed"),
    [
        ("after poll", (), "dynamodb", False, 0),
        ("half way through a batch", ("SendMessageBatch",), "sqs", False, 2),
        ("before commit", ("SendMessageBatch",), "sqs", True, 1),
    ],
)
def test_at_a_step(
    world: World, step: str, actions: tuple[str, ...], server: str, after: bool, passed: int
) -> None:
    """The next bridge begins at what was committed; SQS drops what it has, and each task runs once."""
    hold = Hold(after=after)
    with world.wire.rule(skipping(passed, hold), *actions, client="bridge", server=server):
        world.load.send()
        hold.wait()
        world.kill(world.bridge)
        hold.let_go()
    world.start("bridge")
    world.verify(runs=1)
