"""Faults of the broker: stopped, killed or frozen under load, and started again."""

import os
from pathlib import Path

import pytest

from pipeline.kafka.consumer import ANSWER_TIMEOUT
from tests.faults.kafkawire import OFFSET_COMMIT
from tests.faults.marks import long_only
from tests.faults.world import World

NARROW = Path(__file__).with_name("narrow")


@pytest.mark.parametrize(
    "kill", [pytest.param(False, id="stopped", marks=long_only), pytest.param(True, id="killed")]
)
def test_the_broker_goes_and_comes_back(world: World, kill: bool) -> None:
    """Tasks wait with their results, the bridge with its offsets; then all continue, nothing runs twice."""
    world.load.send(seconds=0.05)
    world.stack.stop_kafka(kill=kill)
    world.pass_time(3)
    world.stack.up()
    world.load.send()
    world.verify()


@long_only
def test_the_broker_is_frozen(world: World) -> None:
    """Connections stay open, and nothing answers."""
    world.load.send(seconds=0.05)
    with world.stack.frozen_kafka():
        world.pass_time(8)
    world.load.send()
    world.verify()


def test_commits_are_never_answered(world: World) -> None:
    """The bridge goes on with new events meanwhile, and commits when answers come again."""
    world.stop(world.bridge)
    wire = world.stack.kafka_wire
    bridge = world.start("bridge", KAFKA_BOOTSTRAP_SERVERS=wire.address)
    world.wait(lambda: bridge.at_work, "at work")
    with wire.losing(OFFSET_COMMIT):
        world.load.send_one("arrivals")
        world.wait(lambda: wire.lost > 0, "an answer is lost")
        sent = world.load.send_one("arrivals")
        # Long before the client gives up its request.
        world.wait_effect("end", sent, timeout=ANSWER_TIMEOUT * 2 / 3)
    world.verify()
    world.stop(bridge)


def test_a_partition_is_not_fetched_any_more(world: World) -> None:
    """The bridge takes another client when its own gets no event of a partition, though brokers answer."""
    world.stop(world.bridge)
    wire = world.stack.kafka_wire
    bridge = world.start("bridge", KAFKA_BOOTSTRAP_SERVERS=wire.address)
    world.wait(lambda: bridge.at_work, "at work")
    # Its client has fetched the topic.
    world.wait_effect("end", world.load.send_one("arrivals"))
    with wire.unfetched(world.topic_id("arrivals")):
        world.wait(lambda: wire.withheld > 0, "a fetch that asks less")
        deaf = world.load.send_one("arrivals")
        world.wait_effect("end", world.load.send_one("parcels"), count=2)
        world.wait_effect("end", deaf)
    world.verify(runs=1)
    assert "bridge.partitions_stuck" in bridge.log
    world.stop(bridge)


def test_the_producers_queue_is_full(world: World) -> None:
    """More tasks have ended than a producer's queue holds: the rest waits, and none runs again."""
    for worker in world.of("worker"):
        world.stop(worker)
    path = os.pathsep.join(filter(None, (str(NARROW), os.environ.get("PYTHONPATH"))))
    narrow = [world.start("worker", PYTHONPATH=path, FAULTS_QUEUE="5") for _ in range(2)]
    world.wait(lambda: all(process.at_work for process in narrow), "at work")
    # Long enough that most of it is still to be run when the last of it has been sent and committed.
    world.load.send(seconds=0.5)
    world.wait(lambda: not any(world.observer.lag().values()), "all is on the queue")
    with world.stack.frozen_kafka():
        world.wait((world.folder / "queue-full").exists, "a full queue")
    world.verify(runs=1)
    for worker in narrow:
        world.stop(worker)


def test_workers_die_while_the_broker_is_away(world: World) -> None:
    """Tasks finished but not acknowledged by Kafka are lost with the workers, and run again."""
    sent = world.load.send(seconds=0.1)
    world.wait(lambda: any(world.effects("end", each) for each in sent), "some ran")
    world.stack.stop_kafka(kill=True)
    world.pass_time(1.5)
    for worker in world.of("worker"):
        world.kill(worker)
    world.stack.up()
    for _ in range(2):
        world.start("worker")
    world.verify()
