"""Queues as they are: depths and their trend, and what dead letters say, without taking any away."""

import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from config.settings import Settings
from pipeline.registry import Registry
from pipeline.sqs import ReceivedMessage, SqsQueue, sqs_client
from pipeline.taskmessage import ATTEMPTS, HEADER

#: Characters of a message's body that are shown.
BODY_SHOWN = 300

LIVE_WARNING = (
    "Receiving from a live FIFO queue is not free of effect: each message that is looked at counts one "
    "receive towards maxReceiveCount, and while it is looked at no worker gets its message group."
)


@dataclass(frozen=True, kw_only=True)
class QueueReading:
    """How many messages one queue holds, about."""

    name: str
    role: Literal["tasks", "dlq"]
    available: int
    in_flight: int
    delayed: int

    @property
    def depth(self) -> int:
        """All of them."""
        return self.available + self.in_flight + self.delayed


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The queues at one moment."""

    #: Seconds since 1970.
    at: float
    queues: tuple[QueueReading, ...]

    @property
    def tasks(self) -> tuple[QueueReading, ...]:
        """Those that tasks wait on, the task queue first."""
        return tuple(queue for queue in self.queues if queue.role == "tasks")

    @property
    def dlq_depth(self) -> int:
        """Dead letters, all together."""
        return sum(queue.depth for queue in self.queues if queue.role == "dlq")


@dataclass(frozen=True, kw_only=True)
class Trend:
    """What became of the dead letters since an earlier reading."""

    change: int
    seconds: float

    @property
    def per_minute(self) -> float:
        """Dead letters that came (or went) a minute."""
        return self.change * 60 / self.seconds if self.seconds > 0 else 0.0

    @property
    def word(self) -> str:
        """The trend in a word."""
        return "rising" if self.change > 0 else "falling" if self.change < 0 else "steady"


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One message that was looked at."""

    message_id: str
    group_id: str
    #: Seconds since 1970, on SQS's clock.
    sent_at: float
    age_seconds: float
    receive_count: int
    #: Failed runs as recorded with a dead letter; else the deliveries before this look.
    attempts: int
    task: str | None
    job_id: str | None
    #: What this project sent beside the body: why it is a dead letter.
    attributes: Mapping[str, str]
    body: str


class SqsMonitor:
    """Looks at a service's queues."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._client = sqs_client(settings)
        self._tasks = SqsQueue(self._client, settings.sqs_task_queue_url)
        self._dlq = SqsQueue(self._client, settings.sqs_dlq_url)

    def read(self, registry: Registry) -> Reading:
        """Depths now: the task queue's, those of stages' own queues, the dead-letter queue's."""
        own = {stage.queue for stage in registry.by_name.values() if stage.queue}
        others = [
            SqsQueue(self._client, self._settings.queue_url(name))
            for name in sorted(own - {self._settings.task_queue})
        ]
        tasks = [_reading(queue, "tasks") for queue in (self._tasks, *others)]
        return Reading(at=time.time(), queues=(*tasks, _reading(self._dlq, "dlq")))

    def dead_letters(self, count: int) -> list[Sample]:
        """Up to ``count`` (at most 10) dead letters, which stay where they are."""
        return _sample(self._dlq, count)

    def live(self, count: int) -> list[Sample]:
        """Up to ``count`` (at most 10) tasks of the live queue; see ``LIVE_WARNING``."""
        return _sample(self._tasks, count)


def trend(earlier: Reading | None, now: Reading) -> Trend | None:
    """From one reading to the next; None for the first."""
    if earlier is None:
        return None
    return Trend(change=now.dlq_depth - earlier.dlq_depth, seconds=now.at - earlier.at)


def attempts_histogram(samples: Iterable[Sample]) -> dict[int, int]:
    """How many of the samples had how many attempts."""
    return dict(sorted(Counter(sample.attempts for sample in samples).items()))


def _reading(queue: SqsQueue, role: Literal["tasks", "dlq"]) -> QueueReading:
    depth = queue.depth()
    return QueueReading(
        name=queue.name,
        role=role,
        available=depth.available,
        in_flight=depth.in_flight,
        delayed=depth.delayed,
    )


def _sample(queue: SqsQueue, count: int) -> list[Sample]:
    if count <= 0:
        return []
    # Hidden for no time: nothing has to be given back, whatever happens to this process.
    messages = queue.receive(count, wait_seconds=0, visibility_seconds=0)
    now = time.time()
    return [_view(message, now) for message in messages]


def _view(message: ReceivedMessage, now: float) -> Sample:
    headers = _headers(message.body)
    attempts = message.attributes.get(ATTEMPTS, "")
    about = headers.get(HEADER)
    return Sample(
        message_id=message.message_id,
        group_id=message.group_id,
        sent_at=message.sent_at,
        age_seconds=round(max(0.0, now - message.sent_at), 1),
        receive_count=message.receive_count,
        attempts=int(attempts) if attempts.isdigit() else max(0, message.receive_count - 1),
        task=headers.get("task"),
        job_id=about.get("job_id") if isinstance(about, dict) else None,
        attributes=message.attributes,
        body=message.body[:BODY_SHOWN],
    )


def _headers(body: str) -> dict[str, Any]:
    """The Celery headers of a task's message; {} for anything else."""
    try:
        headers = json.loads(body)["headers"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return {}
    return headers if isinstance(headers, dict) else {}
