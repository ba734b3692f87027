"""Faults of SendMessageBatch: it fails for some entries, for all, or its answer is lost."""

import pytest

from tests.faults.marks import long_only
from tests.faults.mishaps import answer_error, fail_entries, lose_reply, refuse
from tests.faults.wire import Script
from tests.faults.world import World


@pytest.mark.parametrize("client", ["bridge", "worker"])
def test_some_entries_of_a_batch_fail(world: World, client: str) -> None:
    """Failed entries are sent again, before any later one of their group."""
    with world.wire.rule(fail_entries(every=3), "SendMessageBatch", client=client):
        world.load.send()
        world.verify(runs=1)


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(lose_reply, id="reply lost"),
        pytest.param(answer_error(503, "ServiceUnavailable", after=True), id="503 though done"),
        pytest.param(refuse, id="refused", marks=long_only),
        pytest.param(answer_error(500, "InternalError"), id="500", marks=long_only),
    ],
)
def test_a_batch_is_not_answered(world: World, script: Script) -> None:
    """A batch is sent again with the same ids: SQS drops repeated entries, and each task runs once."""
    with world.wire.rule(script, "SendMessageBatch", times=8):
        world.load.send()
        world.verify(runs=1)
