"""Faults of clocks: an hour wrong, each process differently."""

import os
import time
from pathlib import Path

import pytest

from tests.faults.marks import long_only
from tests.faults.world import World

HOUR = 3600.0
SKEW = Path(__file__).with_name("skew")


@pytest.mark.parametrize(("bridge", "worker"), [(-HOUR, HOUR), pytest.param(HOUR, -HOUR, marks=long_only)])
def test_an_hour_of_skew(world: World, bridge: float, worker: float) -> None:
    """Leases use a clock that cannot be set, ages of jobs Kafka's and SQS's clocks: nothing changes."""
    for process in world.alive():
        world.stop(process)
    path = os.pathsep.join(filter(None, (str(SKEW), os.environ.get("PYTHONPATH"))))
    skewed = [
        world.start(kind, PYTHONPATH=path, FAULTS_SKEW=str(skew))
        for kind, skew in (("bridge", bridge), ("worker", worker), ("worker", 0.0))
    ]
    world.wait(lambda: all(process.at_work for process in skewed), "at work")
    # Each of both workers has to take some of it.
    world.load.send(seconds=0.1)
    world.load.send_one("arrivals", entity=0, seconds=3)
    world.load.send_one("arrivals", entity=1, do="early-fail-once")
    world.verify()
    assert any(abs(line["at"] - time.time()) > HOUR / 2 for line in world.observer.effects()), "no skew"
    for process in skewed:
        world.stop(process)
