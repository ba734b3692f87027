"""Two: two bridges of ours that share the partitions."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.fill import emit_all, middle_events
from benchmarks.ground import Ground
from benchmarks.measure import BenchmarkError
from benchmarks.peer import Ready, on_sqs, queue_depth
from benchmarks.peers.ours import BRIDGE
from pipeline.kafka import Group, describe_groups

name = "ours-2"

COPIES = 2

#: Seconds that they may take to share the partitions.
TIMEOUT = 60.0


def missing() -> str | None:
    """Return None: it needs nothing else."""
    return None


@contextmanager
def sending(ground: Ground, events: int) -> Iterator[Ready]:
    """Put the events of ours on Kafka once both bridges have partitions: one alone would start earlier."""
    sent = middle_events(ground, events)

    def bring() -> None:
        _wait_shared(ground)
        emit_all(ground, sent)

    yield on_sqs(ground, BRIDGE, ("sqs", "dynamodb"), queue_depth(ground), copies=COPIES, bring=bring)


def _wait_shared(ground: Ground) -> None:
    if ground.services == "embedded":
        # librdkafka's mock cluster does not tell the members of a group.
        return
    group = ground.settings.kafka_consumer_group
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline:
        found = describe_groups(ground.settings, [group])[group]
        if isinstance(found, Group) and found.state == "STABLE":
            shares = [len(member.partitions) for member in found.members]
            if len(shares) == COPIES and all(shares):
                return
        time.sleep(0.2)
    raise BenchmarkError(f"the bridges did not share the partitions in {TIMEOUT:g} s: {found}")
