"""Faults of leases: a task outlives its visibility, or a worker is frozen, and others take over meanwhile."""

import math
import time
from collections.abc import Mapping
from typing import Any

import pytest

from tests.faults.marks import long_only
from tests.faults.mishaps import answer_error, refuse
from tests.faults.wire import Script
from tests.faults.world import LEASE, Process, World


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(refuse, id="refused"),
        pytest.param(answer_error(500, "InternalError"), id="500", marks=long_only),
    ],
)
def test_a_task_outlives_its_visibility(world: World, script: Script) -> None:
    """Without a heartbeat the task also runs elsewhere; both runs end, and count as one."""
    with world.wire.rule(script, "ChangeMessageVisibilityBatch", client="worker"):
        slow = [
            world.load.send_one(topic, entity=0, seconds=2.2 * LEASE) for topic in ("arrivals", "parcels")
        ]
        world.load.send()
        for each in slow:
            world.wait_effect("end", each)
        world.settle()
    world.verify()


@pytest.mark.parametrize("topic", ["arrivals", pytest.param("parcels", marks=long_only)])
def test_a_worker_is_frozen_beyond_its_leases(world: World, topic: str) -> None:
    """After SIGSTOP another worker runs its tasks; resumed, it starts no task that it lost."""
    for worker in world.of("worker"):
        world.stop(worker)
    held = [world.load.item(topic, entity="held", seconds=seconds) for seconds in (2, 0, 0, 0)]
    world.load.produce(held)
    # All are sent before the first is received, so the next one of its group comes with it and waits.
    world.wait(lambda: world.observer.depth()[0] == len(held), "all are on the queue")
    world.load.send(seconds=0.2)
    frozen = world.start("worker")
    world.wait_effect("start", held[0])
    world.wait(lambda: is_frozen_in_runs(world, frozen), "a freeze in which no child is about to start a run")
    world.start("worker")
    for each in held:
        world.wait_effect("end", each)
    thawed, children = time.time(), {child.pid for child in frozen.children()}
    frozen.resume()
    world.verify()
    starts = [line for line in world.observer.effects() if line["what"] == "start"]
    elsewhere = {_task(line): line["at"] for line in reversed(starts) if line["pid"] not in children}
    late = [line for line in starts if line["pid"] in children and line["at"] > thawed]
    assert [line for line in late if elsewhere.get(_task(line), math.inf) < line["at"]] == []


def test_a_child_is_frozen_with_a_task_on_its_way(world: World) -> None:
    """A child that got its task before the freeze must not run it: another worker did."""
    frozen, other = world.of("worker")
    world.stop(other)
    frozen.pause_children()
    sent = [world.load.send_one("arrivals", entity="frozen") for _ in range(4)]
    world.wait(lambda: world.observer.depth()[1] >= 1, "received")
    world.pass_time(1)
    frozen.pause()
    world.start("worker")
    world.wait_effect("end", sent[-1])
    frozen.resume()
    world.load.send()
    world.verify(runs=1)


def is_frozen_in_runs(world: World, worker: Process) -> bool:
    """Freeze a worker in which user code runs in both children; resume it where one is between two runs.

    There a child may have found its lease in time, and the start of its run not written yet.
    """
    worker.pause()
    latest = {line["pid"]: line["what"] for line in world.observer.effects()}
    if sum(latest.get(child.pid) == "start" for child in worker.children()) == 2:
        return True
    worker.resume()
    return False


def _task(line: Mapping[str, Any]) -> tuple[str, str, int | None]:
    return line["stage"], line["key"], line["part"]
