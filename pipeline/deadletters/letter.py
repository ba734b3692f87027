"""A dead letter as a person sees it: a task on the SQS queue, an event or the trace of a task on a topic."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pipeline.errorevents import ErrorEvent
from pipeline.jobs import Ref
from pipeline.kafka import Message
from pipeline.sqs import ReceivedMessage

#: The SQS dead-letter queue, the Kafka DLQ topic, and what the errors topic tells of tasks.
Place = Literal["sqs", "kafka", "errors"]

#: What ``error`` says of a message that SQS itself moved, until the watcher gave it a reason.
UNEXPLAINED = "Unexplained"


@dataclass(frozen=True, kw_only=True)
class DeadLetter:
    """One dead letter. What is not known of it is None or empty."""

    #: Names it in commands: the SQS message id, ``kafka:<partition>:<offset>`` on the DLQ topic, or
    #: ``errors:<partition>:<offset>`` on the errors topic.
    id: str
    place: Place
    #: The class of the exception, and what it said.
    error: str
    reason: str
    #: The queue, or the topic, it came from.
    source: str | None
    job_id: str | None = None
    stage: str | None = None
    #: "3/20", or the role of the task in its stage.
    part: str | None = None
    entity_id: str | None = None
    #: Celery's name of the task.
    task: str | None = None
    task_id: str | None = None
    attempts: int = 0
    worker: str | None = None
    #: How often it was redriven before.
    generation: int = 0
    #: When its first message was sent, and when it was given up on: seconds since 1970.
    first_at: float | None = None
    failed_at: float
    #: Where on Kafka its event was read.
    topic: str | None = None
    partition: int | None = None
    offset: int | None = None
    #: Of a task: the message group it came from.
    group_id: str | None = None
    #: Whether the order within its group counts: a redrive comes out of it.
    ordered: bool = False
    traceback: str = ""
    #: Celery's headers, or the event's.
    headers: Mapping[str, Any] = field(default_factory=dict)
    #: The data as it came, as text; of what is no task or event, all there is.
    data: str | None = None
    #: What it is to its job; on the Kafka topic that depends on the stages, and is None.
    ref: Ref | None = field(default=None, repr=False)
    #: As received or read.
    raw: ReceivedMessage | Message | ErrorEvent = field(repr=False)

    @property
    def explained(self) -> bool:
        """Whether somebody said why it is here; SQS itself moves a message without."""
        return self.error != UNEXPLAINED

    @property
    def identity(self) -> str:
        """The same for two dead letters of the same task."""
        if self.task_id:
            return self.task_id
        return str(hash(self.raw.body)) if isinstance(self.raw, ReceivedMessage) else self.id

    def names(self) -> frozenset[str]:
        """What it answers to in commands: its id, and that of its task, which logs and Flower show."""
        return frozenset(name for name in (self.id, self.task_id) if name)

    def fields(self, *, full: bool) -> dict[str, Any]:
        """It as one JSON object; ``full`` with its data, headers and traceback."""
        hidden = {"ref", "raw"} | (set() if full else {"data", "headers", "traceback"})
        return {name: value for name, value in vars(self).items() if name not in hidden}
