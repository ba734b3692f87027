"""Faults of the bridge: kill -9 at each step; uncommitted events are repeated, nothing is doubled."""

import pytest

from tests.faults.marks import long_only
from tests.faults.mishaps import Hold, skipping
from tests.faults.world import World


@pytest.mark.parametrize(
    ("actions", "after", "passed"),
    [
        pytest.param(("BatchExecuteStatement",), False, 0, id="after poll"),
        pytest.param(("BatchExecuteStatement",), True, 0, id="after the jobs are opened", marks=long_only),
        pytest.param(("SendMessageBatch",), False, 2, id="half way through a batch"),
        pytest.param(("SendMessageBatch",), True, 1, id="sent, before commit"),
    ],
)
def test_at_a_step(world: World, actions: tuple[str, ...], after: bool, passed: int) -> None:
    """The next bridge starts at the committed offsets; SQS drops repeated sends, and each task runs once."""
    hold = Hold(after=after)
    with world.wire.rule(skipping(passed, hold), *actions, client="bridge"):
        world.load.send()
        hold.wait()
        # Time for a commit that must not happen.
        world.pass_time(1.5)
        world.kill(world.bridge)
        hold.let_go()
    world.start("bridge")
    world.verify(runs=1)
