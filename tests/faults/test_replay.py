"""A fault of deduplication: five minutes after a send, SQS accepts the same message again."""

import time

from tests.faults.mishaps import Hold, forget_duplicates
from tests.faults.world import World

#: The claimed age of the jobs (seconds), beyond the five minutes that SQS remembers.
AGE = 600.0


def test_a_bridge_is_down_longer_than_sqs_remembers(world: World) -> None:
    """Events sent and not committed are sent again as new messages: done tasks are recognised.

    The five minutes are not waited for: the jobs are submitted ten minutes ago, and the wire gives what is
    sent the second time another deduplication id, which is what SQS makes of it then.
    """
    hold, submitted = Hold(after=True), time.time() - AGE
    with world.wire.rule(hold, "SendMessageBatch", client="bridge"):
        world.load.send(submitted_at=submitted)
        hold.wait()
        world.wait(lambda: not any(world.observer.depth()), "what was sent is done")
        world.kill(world.bridge)
        hold.let_go()
    with world.wire.rule(forget_duplicates, "SendMessageBatch", client="bridge"):
        world.start("bridge")
        world.verify(runs=1)
