"""Measured rates, from docs/reference/performance.md, which has the machine, the method and the spread."""

from collections.abc import Mapping
from typing import Final

from pipeline.capacity.figure import Figure

_WORKER = "docs/reference/performance.md#worker"
_JOBS = "docs/reference/performance.md#whole-jobs"
_BRIDGE = "docs/reference/performance.md#bridge"

#: A worker's parent process, which settles all its tasks, is one Python process.
TASK_MS: Final = Figure(
    value=1000 / 917, unit="ms of a worker's parent process for a task", source=_WORKER, date="2026-11-24"
)
#: Of requests that tasks share, the time is in that of a task. Fitted to both jobs of the whole-jobs table.
REQUEST_MS: Final = Figure(
    value=0.5, unit="ms of it for a request that tasks do not share", source=_JOBS, date="2026-11-29"
)
CHILD_MS: Final = Figure(
    value=0.4,
    unit="ms of CPU of a child process for a task that does nothing",
    source=_JOBS,
    date="2026-11-29",
)
EVENT_MS: Final = Figure(
    value=0.21, unit="ms of CPU of a bridge for an event", source=_BRIDGE, date="2026-11-24"
)
FIRST_EVENT_MS: Final = Figure(
    value=0.32, unit="ms of CPU of a bridge for a first event", source=_BRIDGE, date="2026-11-30"
)
EVENTS: Final = Figure(
    value=2567, unit="events a second of a bridge, round trip 10 ms", source=_BRIDGE, date="2026-11-24"
)
#: Opening a job beside it: the share that it has left of its rate, on a server that answers after 10 ms.
FIRST_EVENTS: Final = Figure(
    value=2567 * 1920 / 3620, unit="first events a second of a bridge", source=_BRIDGE, date="2026-11-30"
)
ENTITY_TASKS: Final = Figure(
    value=93, unit="tasks a second of one entity that do nothing", source=_WORKER, date="2026-11-30"
)
LEAF_WRITES: Final = Figure(
    value=0.44, unit="writes to a split's counter for a part", source=_JOBS, date="2026-11-29"
)
FLOWER_EVENTS: Final = Figure(
    value=6000,
    unit="task events a second that Flower takes in, at its slowest",
    source="docs/guides/flower.md",
    date="2026-11-24",
)

#: Messages or items in a request, while many jobs run: the same table, three stages without a split, and for
#: BatchGetItem with one.
TOGETHER: Final[Mapping[str, float]] = {
    "SendMessageBatch": 3 / 0.55,
    "ReceiveMessage": 5.0,
    "DeleteMessageBatch": 3 / 0.58,
    "BatchWriteItem": 2 / 0.47,
    "BatchExecuteStatement": 2 / 0.33,
    "BatchGetItem": 4 / 3.18,
}

#: Bytes of an event beside its data, of a task's message, and of a task event (three of them a task).
EVENT_BYTES, MESSAGE_BYTES, TASK_EVENT_BYTES, TASK_EVENTS = 320, 1_200, 350, 3
