"""Faults of DynamoDB: throttling, errors, conflicts, lost answers."""

import pytest

from tests.faults.marks import long_only
from tests.faults.mishaps import answer_error, fail_statements, leave_unprocessed, lose_reply
from tests.faults.wire import Script
from tests.faults.world import World

WRITES = ("UpdateItem", "PutItem", "BatchWriteItem", "BatchExecuteStatement")
#: In the key of a counter's node.
COUNTER = "/L#"


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(answer_error(400, "ProvisionedThroughputExceededException"), id="throttled"),
        pytest.param(answer_error(400, "TransactionConflictException"), id="conflict"),
        pytest.param(lose_reply, id="reply lost"),
        pytest.param(answer_error(500, "InternalServerError"), id="500", marks=long_only),
        pytest.param(
            answer_error(500, "InternalServerError", after=True), id="500 though done", marks=long_only
        ),
    ],
)
def test_writes_go_wrong(world: World, script: Script) -> None:
    """Writes are repeated until answered; repeated writes count once, and no task fails."""
    with (
        # Those of counters by themselves: what comes before them takes up the others.
        world.wire.rule(script, "UpdateItem", holding=COUNTER, times=25),
        world.wire.rule(script, *WRITES, server="dynamodb", times=25),
    ):
        world.load.send()
        world.load.send_one("crates", parts=world.scale.large_split)
        world.verify(runs=1)


def test_batches_are_left_unprocessed(world: World) -> None:
    """Unprocessed items and statements are repeated, and no others are lost."""
    with (
        world.wire.rule(leave_unprocessed(every=3), "BatchWriteItem", times=10),
        world.wire.rule(fail_statements(every=3), "BatchExecuteStatement", times=10),
    ):
        world.load.send()
        world.verify(runs=1)


def test_reads_go_wrong(world: World) -> None:
    """A failed look-up is repeated; nothing is assumed."""
    script = answer_error(500, "InternalServerError")
    with world.wire.rule(script, "GetItem", "BatchGetItem", "Query", times=25):
        world.load.send()
        world.verify(runs=1)
