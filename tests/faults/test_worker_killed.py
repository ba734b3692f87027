"""A worker is killed with kill -9 between two of its steps: effect, emit, record, close, delete."""

import pytest

from tests.faults.mishaps import Hold
from tests.faults.world import World

#: What records a task: a part in its counter, a stage in its job.
WRITES = ("UpdateItem", "BatchWriteItem")


def test_after_the_effect(world: World) -> None:
    """User code did its work, and the worker with all its children is gone before anybody heard of it."""
    world.load.send()
    for topic, more in (("arrivals", {}), ("parcels", {}), ("crates", {"parts": 1})):
        sent = world.load.send_one(topic, entity=0, do="kill-worker-once", **more)
        world.wait(lambda: len(world.of("worker")) < 2, "a worker is killed")
        world.wait_effect("end", sent)
        world.start("worker")
    world.verify()


@pytest.mark.parametrize(
    ("actions", "holding", "after"),
    [
        pytest.param(WRITES, "", False, id="emitted, not recorded"),
        pytest.param(WRITES, "", True, id="recorded, unheard"),
        pytest.param(("UpdateItem",), "closed_at", False, id="announced, not closed"),
        pytest.param(("DeleteMessageBatch",), "", False, id="not deleted"),
        pytest.param(("DeleteMessageBatch",), "", True, id="deleted, unheard"),
    ],
)
def test_between_steps(world: World, actions: tuple[str, ...], holding: str, after: bool) -> None:
    """Killed while its request, or the answer, is on the way: the next goes on from what is recorded."""
    for worker in world.of("worker"):
        world.stop(worker)
    victim = world.start("worker", client="victim")
    world.wait(lambda: victim.at_work, "at work")
    hold = Hold(after=after)
    with world.wire.rule(hold, *actions, client="victim", holding=holding):
        world.load.send()
        hold.wait()
        # Time for a delete that must not be.
        world.pass_time(1)
        world.kill(victim)
        hold.let_go()
    world.ready()
    world.verify()


@pytest.mark.parametrize(
    "after", [pytest.param(False, id="not sent"), pytest.param(True, id="sent, unheard")]
)
def test_a_split_is_cut_short(world: World, after: bool) -> None:
    """Killed with its parts sealed and not all sent: those are sent, whatever a second run would make."""
    for worker in world.of("worker"):
        world.stop(worker)
    victim = world.start("worker", client="victim")
    world.wait(lambda: victim.at_work, "at work")
    hold = Hold(after=after)
    crate = world.load.item("crates", entity=0, parts=25, do="grows")
    with world.wire.rule(hold, "SendMessageBatch", client="victim", holding=crate.job_id):
        world.load.produce([crate])
        hold.wait()
        world.kill(victim)
        hold.let_go()
    world.load.send()
    world.ready()
    world.verify()
