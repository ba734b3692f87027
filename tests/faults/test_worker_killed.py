"""Faults of the worker: killed with kill -9 between two of its steps: effect, emit, record, close, delete."""

import pytest

from tests.faults.mishaps import Hold
from tests.faults.world import World

#: The writes that record a task: a part in its counter, a stage in its job.
WRITES = ("UpdateItem", "BatchWriteItem")


def test_after_the_effect(world: World) -> None:
    """The worker is killed with all its children after the effect and before its outcome is returned."""
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
        pytest.param(("BatchExecuteStatement",), "closed_at", False, id="announced, not closed"),
        pytest.param(("DeleteMessageBatch",), "", False, id="not deleted"),
        pytest.param(("DeleteMessageBatch",), "", True, id="deleted, unheard"),
    ],
)
def test_between_steps(world: World, actions: tuple[str, ...], holding: str, after: bool) -> None:
    """The worker is killed during a request or its answer; the next one continues from the record."""
    for worker in world.of("worker"):
        world.stop(worker)
    victim = world.start("worker", client="victim")
    world.wait(lambda: victim.at_work, "at work")
    hold = Hold(after=after)
    with world.wire.rule(hold, *actions, client="victim", holding=holding):
        world.load.send()
        hold.wait()
        # Time for a delete that must not happen.
        world.pass_time(1)
        world.kill(victim)
        hold.let_go()
    world.ready()
    world.verify()


def test_several_of_an_entity_ran_and_none_is_recorded(world: World) -> None:
    """They ran one after the other while the first was being recorded, and run again in their order."""
    for worker in world.of("worker"):
        world.stop(worker)
    items = [world.load.item("arrivals", entity="eager") for _ in range(8)]
    world.load.produce(items)
    world.wait(lambda: world.observer.depth()[0] == len(items), "all are on the queue")
    hold = Hold(after=False)
    with world.wire.rule(hold, *WRITES, client="victim"):
        victim = world.start("worker", client="victim")
        # A worker that knows nothing of the queue yet asks for as many messages as it has slots: for two.
        world.wait_effect("end", items[1])
        hold.wait()
        world.kill(victim)
        hold.let_go()
    world.ready()
    world.load.send()
    world.verify(runs=2)


@pytest.mark.parametrize(
    "after", [pytest.param(False, id="not sent"), pytest.param(True, id="sent, unheard")]
)
def test_a_split_is_cut_short(world: World, after: bool) -> None:
    """A worker killed between the seal and the last send: exactly the sealed parts are sent."""
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
