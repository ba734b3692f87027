"""The sizes of a deployment for a use: workers, bridges, partitions."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pipeline.capacity import measured
from pipeline.capacity.shape import Shape
from pipeline.capacity.use import Use
from pipeline.observe.brokerconnections import connections_of
from pipeline.settings import Settings

#: Processes are planned to be busy for this share of the time. An assumption: room for peaks and restarts.
BUSY: Final = 0.7

#: Processes of each kind at least, so that one may fail.
FEWEST: Final = 2

#: Bytes a second that a partition of Kafka carries with ease. An assumption.
PARTITION_BYTES: Final = 10e6

#: Partitions of a topic unless a setting says otherwise.
PARTITIONS: Final[int] = Settings.model_fields["topic_partitions"].default

#: Tasks a second of a worker whose events it sends at most, unless a setting says otherwise.
SHOWN: Final[float] = Settings.model_fields["events_tasks_per_second"].default


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The processes and partitions that a use needs."""

    workers: int
    #: Child processes of a worker.
    concurrency: int
    #: The most tasks a second of a worker: of its parent process or of its children, the lesser.
    worker_tasks: float
    bridges: int
    #: Of each topic of a stage, and the number of these topics.
    partitions: int
    topics: int
    #: Workers, not rounded up; and as many workers' and bridges' connections to the busiest broker.
    busy_workers: float
    connections: float
    #: Task events a second that workers send at most, and their bytes.
    task_events: float
    task_event_bytes: float


def sizes_of(mix: Sequence[Shape], use: Use, concurrency: int) -> Sizes:
    """Return what a use needs."""
    workers = max(use.parent_cpu, use.running / concurrency) / BUSY
    first, further = use.first_events, use.events - use.first_events
    bridges = (first / measured.FIRST_EVENTS.value + further / measured.EVENTS.value) / BUSY
    busiest = use.busiest_first_events / measured.FIRST_EVENTS.value / BUSY
    has_events = use.events > 0
    task_events = min(use.tasks, workers * SHOWN) * measured.TASK_EVENTS
    return Sizes(
        workers=max(FEWEST, math.ceil(workers)),
        concurrency=concurrency,
        worker_tasks=use.tasks / max(use.parent_cpu, use.running / concurrency),
        bridges=max(FEWEST, math.ceil(bridges)) if has_events else 0,
        # A partition is read by one bridge.
        partitions=math.ceil(max(PARTITIONS, busiest, use.event_bytes / PARTITION_BYTES))
        if has_events
        else 0,
        topics=sum(shape.stages for shape in mix),
        busy_workers=workers,
        connections=connections_of(workers, bridges),
        task_events=task_events,
        task_event_bytes=task_events * measured.TASK_EVENT_BYTES,
    )
