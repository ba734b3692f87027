"""One entity's backlog holds up its own stage only, in a small run of the benchmark that measures it."""

import json
import os
import subprocess
import sys

from pipeline.services.environment import Services

#: In a process of its own: the benchmark's stages would be registered for all tests of this one.
RUN = """
import json, os
from benchmarks import entity
from pipeline.services.environment import Services

services = Services(name="embedded", environment=dict(os.environ))
print(json.dumps(entity.run(services, tasks=60, rate=50, events=100, limit=50, warm_up=50)))
"""
#: The entity's events behind its tasks (``benchmarks.entity.BEHIND``).
BEHIND = 1000


def test_a_deep_queue_of_one_entity_leaves_other_stages_alone(embedded_services: Services) -> None:
    """Every event of the other stage becomes a task and runs; the entity's events wait on Kafka."""
    done = subprocess.run(
        [sys.executable, "-c", RUN],
        env=os.environ | embedded_services.environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    without, beside = json.loads(done.stdout.splitlines()[-1])
    assert (without["unread"], beside["unread"]) == (0, BEHIND)
    assert beside["events"] == without["events"] == 100
