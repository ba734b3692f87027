"""Queues as ``pipeline monitor sqs`` shows them: depths, their trend, and a sample of messages."""

import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.author.registry import Registry
from pipeline.observe.reports import QueueReading
from pipeline.settings import Settings
from pipeline.sqs import ReceivedMessage, SqsQueue, sqs_client
from pipeline.transport.stockmessage import as_own, is_of_others, plain_text
from pipeline.wire.deadletter import ATTEMPTS
from pipeline.wire.taskmessage import HEADER

#: Characters of a message's body in a sample.
BODY_SHOWN = 300

LIVE_WARNING = (
    "Receiving from a live FIFO queue is not free of effect: each message that is looked at counts one "
    "receive towards maxReceiveCount, and while it is looked at no worker gets its message group."
)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The depths of all queues at one moment."""

    #: Seconds since 1970.
    at: float
    queues: tuple[QueueReading, ...]

    @property
    def tasks(self) -> tuple[QueueReading, ...]:
        """The queues of tasks, the task queue first."""
        return tuple(queue for queue in self.queues if queue.role == "tasks")

    @property
    def dlq_depth(self) -> int:
        """The number of dead letters."""
        return sum(queue.depth for queue in self.queues if queue.role == "dlq")


@dataclass(frozen=True, kw_only=True)
class Trend:
    """The change in the number of dead letters since an earlier reading."""

    change: int
    seconds: float

    @property
    def per_minute(self) -> float:
        """The change per minute."""
        return self.change * 60 / self.seconds if self.seconds > 0 else 0.0

    @property
    def word(self) -> str:
        """The trend: rising, falling or steady."""
        return "rising" if self.change > 0 else "falling" if self.change < 0 else "steady"


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One message of a sample."""

    message_id: str
    group_id: str
    #: Seconds since 1970, on SQS's clock.
    sent_at: float
    age_seconds: float
    receive_count: int
    #: Failed runs as recorded with a dead letter; else the deliveries before this one.
    attempts: int
    task: str | None
    job_id: str | None
    #: Attributes of a dead letter, among them its reason.
    attributes: Mapping[str, str]
    body: str


@dataclass(frozen=True, kw_only=True)
class QueuesReport:
    """The queues at one moment, the trend of the dead letters, and samples of messages."""

    reading: Reading
    #: None: this is the first reading.
    trend: Trend | None
    dead_letters: tuple[Sample, ...]
    #: Tasks of the live queue; None: they were not asked for.
    live: tuple[Sample, ...] | None


class SqsMonitor:
    """Reads a service's queues."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._client = sqs_client(settings)
        self._tasks = SqsQueue(self._client, settings.sqs_task_queue_url)
        self._dlq = SqsQueue(self._client, settings.sqs_dlq_url)

    def read(self, registry: Registry) -> Reading:
        """Return the depths of the task queue, of stages' own queues, and of the dead-letter queue."""
        own = {stage.queue for stage in registry.by_name.values() if stage.queue}
        others = [
            SqsQueue(self._client, self._settings.queue_url(name))
            for name in sorted(own - {self._settings.task_queue})
        ]
        tasks = [queue_reading(queue, "tasks") for queue in (self._tasks, *others)]
        return Reading(at=time.time(), queues=(*tasks, queue_reading(self._dlq, "dlq")))

    def dead_letters(self, count: int) -> list[Sample]:
        """Return up to ``count`` (at most 10) dead letters, which stay in their queue."""
        return _sample(self._dlq, count)

    def live(self, count: int) -> list[Sample]:
        """Return up to ``count`` (at most 10) tasks of the live queue; see ``LIVE_WARNING``."""
        return _sample(self._tasks, count)


def trend(earlier: Reading | None, now: Reading) -> Trend | None:
    """Return the trend from one reading to the next; None for the first."""
    if earlier is None:
        return None
    return Trend(change=now.dlq_depth - earlier.dlq_depth, seconds=now.at - earlier.at)


def attempts_histogram(samples: Iterable[Sample]) -> dict[int, int]:
    """Return the number of samples by their number of attempts."""
    return dict(sorted(Counter(sample.attempts for sample in samples).items()))


def queue_reading(queue: SqsQueue, role: Literal["tasks", "dlq"]) -> QueueReading:
    """Return the depth of a queue. Raises a ``ServiceError`` if it cannot be read."""
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
    # Hidden for zero seconds: nothing has to be released if this process dies.
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
    """Return the Celery headers of a task's message; {} for any other body."""
    try:
        payload = json.loads(plain_text(body))
        headers = (as_own(payload) if is_of_others(payload) else payload)["headers"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return {}
    return headers if isinstance(headers, dict) else {}
