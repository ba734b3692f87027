"""Faults of DeleteMessageBatch: a done task is redelivered, and recognised."""

import pytest

from tests.faults.marks import long_only
from tests.faults.mishaps import answer_error, expire_handles, fail_entries, lose_reply
from tests.faults.wire import Script
from tests.faults.world import World


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(fail_entries(every=2), id="some fail"),
        pytest.param(expire_handles, id="handle expired"),
        pytest.param(lose_reply, id="reply lost", marks=long_only),
        pytest.param(answer_error(500, "InternalError"), id="500", marks=long_only),
    ],
)
def test_a_delete_does_not_go_through(world: World, script: Script) -> None:
    """The delete is repeated, or the message redelivered: no task runs twice."""
    with world.wire.rule(script, "DeleteMessageBatch", client="worker", times=10):
        world.load.send()
        world.verify(runs=1)
