"""The entity benchmark: the latency of one stage while the queue of another one is too deep."""

import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.compare import log_file
from benchmarks.fill import emit_all, message_of, send_all, stage_event
from benchmarks.fill import first_event as new_event
from benchmarks.ground import Ground, make_ground, make_queue
from benchmarks.latency import Results, emit, row_of
from benchmarks.measure import BenchmarkError, Process, spawn, tail
from benchmarks.oneentity import QUEUE, follow
from benchmarks.peers.ours import WORKER
from benchmarks.waiting import wait
from pipeline.kafka import EventProducer, GroupOffsets
from pipeline.services.environment import Services
from pipeline.sqs import SqsQueue
from pipeline.wire.events import Event

MODULES = "benchmarks.waiting,benchmarks.oneentity"
BRIDGE = (sys.executable, "-m", "benchmarks.entitybridge")
ENTITY = "one"
#: Events of the entity on Kafka, behind its tasks.
BEHIND = 1000
#: Tasks in memory at once while the queue is filled.
AT_ONCE = 10_000
#: Seconds for the bridge to see that the queue is deep.
SEEN = 60.0


def run(
    services: Services,
    tasks: int,
    rate: float,
    events: int,
    limit: int,
    warm_up: int = 1000,
) -> list[dict[str, Any]]:
    """Return two rows: without the deep queue, and with ``tasks`` tasks of one entity on it.

    ``unread``: the entity's further events, which the bridge leaves on Kafka.
    ``limit``: the depth at which the bridge pauses topics.
    """
    ground = make_ground(services, MODULES)
    make_queue(ground, QUEUE)
    with _running(ground, limit) as (processes, bridge_log):
        waits = Results(ground, wait, processes)
        producer = EventProducer(ground.settings, "benchmark")
        _measure(ground, producer, waits, rate, warm_up)
        before = _measure(ground, producer, waits, rate, events)
        _fill(ground, tasks)
        _wait_deep(bridge_log)
        for _ in range(2):
            # The poll in which the bridge learned it has ended, and the next began without the topic.
            _measure(ground, producer, waits, rate, 1)
        # They would be sent at once if the bridge read them.
        emit_all(ground, [stage_event(ground, "follow", _event(number)) for number in range(BEHIND)])
        after = _measure(ground, producer, waits, rate, events)
        unread = _unread(ground)
        producer.close(10.0)
        waits.close()
    return [
        {"benchmark": "entity", "tasks": count, **row_of(services, 0.0, rate, seconds), "unread": left}
        for count, seconds, left in ((0, before, 0), (tasks, after, unread))
    ]


@contextmanager
def _running(ground: Ground, limit: int) -> Iterator[tuple[Mapping[Path, Process], Path]]:
    with (
        log_file() as bridge_log,
        log_file() as log,
        spawn((*BRIDGE, str(limit)), ground.environment, bridge_log) as bridge,
        spawn(WORKER, ground.environment, log) as worker,
    ):
        yield {bridge_log: bridge, log: worker}, bridge_log


def _measure(
    ground: Ground, producer: EventProducer, waits: Results, rate: float, events: int
) -> list[float]:
    emitting = threading.Thread(target=emit, args=(ground, producer, rate, events))
    emitting.start()
    seconds = waits.read(events)
    emitting.join()
    return seconds


def _event(number: int) -> Event:
    return replace(new_event(follow.consumes, b"%d" % number), entity_id=ENTITY)


def _fill(ground: Ground, tasks: int) -> None:
    """Send the entity's tasks past the bridge: their order is of no matter here."""
    queue = SqsQueue(ground.client, ground.settings.queue_url(QUEUE))
    for first in range(0, tasks, AT_ONCE):
        numbers = range(first, min(tasks, first + AT_ONCE))
        send_all(queue, [message_of(follow, b"%d" % number, ENTITY) for number in numbers])


def _wait_deep(log: Path) -> None:
    deadline = time.monotonic() + SEEN
    while b"bridge.queue_deep" not in log.read_bytes():
        if time.monotonic() > deadline:
            raise BenchmarkError(f"the bridge does not see that {QUEUE} is deep:\n{tail(log)}")
        time.sleep(0.2)


def _unread(ground: Ground) -> int:
    """Return the entity's events that the bridge has not committed."""
    offsets = GroupOffsets(ground.settings, ground.settings.kafka_consumer_group)
    try:
        return sum(offsets.lag([ground.settings.topic(follow.consumes)]).values())
    finally:
        offsets.close()
