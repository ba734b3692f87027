"""Faults of ReceiveMessage: messages are delivered, and the answer is lost."""

import pytest

from tests.faults.marks import long_only
from tests.faults.mishaps import answer_error, delay, lose_reply
from tests.faults.wire import Script
from tests.faults.world import World


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(lose_reply, id="reply lost"),
        pytest.param(delay(2), id="late"),
        pytest.param(answer_error(500, "InternalError", after=True), id="500 though done", marks=long_only),
    ],
)
def test_a_receive_is_not_answered(world: World, script: Script) -> None:
    """Messages of a lost answer are redelivered when their lease ends, in order; each task runs once."""
    with world.wire.rule(script, "ReceiveMessage", client="worker", times=6):
        world.load.send()
        world.verify(runs=1)
