"""ReceiveMessage goes wrong: messages are handed out, and nobody hears of it."""

import pytest

from tests.faults.mishaps import answer_error, delay, lose_reply
from tests.faults.wire import Script
from tests.faults.world import World


@pytest.mark.parametrize(
    "script",
    [lose_reply, answer_error(500, "InternalError", after=True), delay(2)],
    ids=["reply lost", "500 though done", "late"],
)
def test_a_receive_is_not_answered(world: World, script: Script) -> None:
    """What was handed out comes again when its lease ends, in order, and each task runs once."""
    with world.wire.rule(script, "ReceiveMessage", client="worker", times=6):
        world.load.send()
        world.verify(runs=1)
