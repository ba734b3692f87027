"""Dead letters as people see them: a task on the SQS queue, an event or a task's failure on a Kafka topic."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal

from pydantic import Field, computed_field

from pipeline.jobs import Ref
from pipeline.kafka import ReceivedRecord
from pipeline.sqs import ReceivedMessage
from pipeline.wire.failure import ErrorEvent, Failure

#: The SQS dead-letter queue, the Kafka DLQ topic, and the failures of tasks on the errors topic.
Place = Literal["sqs", "kafka", "errors"]

#: The ``error`` of a message that SQS itself moved, until the sweep gives it a reason.
UNEXPLAINED = "Unexplained"

_NAME = re.compile(r"(kafka|errors):\d{1,9}:\d{1,18}", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class LetterRow(Failure):
    """A dead letter in a list. An unknown field is None or empty."""

    #: Names it in commands: the SQS message id, ``kafka:<partition>:<offset>`` on the DLQ topic, or
    #: ``errors:<partition>:<offset>`` on the errors topic.
    id: str
    place: Place
    #: Celery's name of the task.
    task: str | None = None
    #: Not in the JSON of a list: it may be long.
    traceback: Annotated[str, Field(exclude=True)] = ""

    @computed_field  # type: ignore[prop-decorator]
    @property
    def source(self) -> str | None:
        """The queue of a task, or the topic of an event, to which a redrive returns it."""
        return self.topic if self.place == "kafka" else self.queue

    @computed_field  # type: ignore[prop-decorator]
    @property
    def ordered(self) -> bool:
        """Whether the order within its message group counts; a redrive breaks it."""
        return self.group_id is not None and self.task_id is not None and self.group_id != self.task_id

    def fields(self) -> dict[str, Any]:
        """Return it as one JSON object."""
        first = {name: getattr(self, name) for name in ("id", "place", "error", "reason", "source", "task")}
        others = {name: value for name, value in self.facts().items() if name not in ("traceback", "queue")}
        return {**first, **others, "ordered": self.ordered}


@dataclass(frozen=True, kw_only=True)
class DeadLetter(LetterRow):
    """A dead letter with its data."""

    #: Celery's headers, or the event's.
    headers: Mapping[str, Any] = field(default_factory=dict)
    #: The original data as text; the whole message where it is no task or event.
    data: str | None = None
    #: Its place in its job; None on the Kafka topic, where it depends on the stages.
    ref: Ref | None = field(default=None, repr=False)
    #: As received or read.
    raw: ReceivedMessage | ReceivedRecord | ErrorEvent = field(repr=False)

    @property
    def explained(self) -> bool:
        """Whether it has a reason; SQS moves a message without one."""
        return self.error != UNEXPLAINED

    @property
    def identity(self) -> str:
        """The same for two dead letters of one task."""
        if self.task_id:
            return self.task_id
        return str(hash(self.raw.body)) if isinstance(self.raw, ReceivedMessage) else self.id

    def names(self) -> frozenset[str]:
        """Return its names in commands: its id and its task's, which logs and Flower show."""
        return frozenset(name for name in (self.id, self.task_id) if name)

    def details(self) -> dict[str, Any]:
        """Return it as one JSON object with its data, headers and traceback."""
        about = {"traceback": self.traceback, "headers": self.headers, "data": self.data}
        return {**self.fields(), **about}


@dataclass(frozen=True, kw_only=True)
class Filter:
    """Selects dead letters. Every condition that is given must hold; without any, all are selected."""

    stage: str | None = None
    job_id: str | None = None
    #: The exception's class, with or without its module; * matches anything.
    error: str | None = None
    #: Given up on before, or since, that moment (seconds since 1970).
    before: float | None = None
    since: float | None = None
    place: Place | None = None
    #: As ``DeadLetter.names`` returns them.
    ids: frozenset[str] = frozenset()

    @property
    def is_empty(self) -> bool:
        """Whether it selects every dead letter, wherever it is."""
        return self == Filter()

    def __call__(self, letter: DeadLetter) -> bool:
        """Whether a dead letter is selected."""
        return (
            (not self.ids or not self.ids.isdisjoint(letter.names()))
            and self.stage in (None, letter.stage)
            and self.job_id in (None, letter.job_id)
            and self.place in (None, letter.place)
            and (self.error is None or _is_error(letter.error, self.error))
            and (self.before is None or letter.failed_at < self.before)
            and (self.since is None or letter.failed_at >= self.since)
        )


def letter_id(place: Place, partition: int, offset: int) -> str:
    """Return the name in commands of a record on a topic."""
    return f"{place}:{partition}:{offset}"


def place_of(name: str) -> Place:
    """Return where the dead letter of that name is; a task's id is looked up on the queue."""
    if not _NAME.fullmatch(name):
        return "sqs"
    return "kafka" if name.startswith("kafka") else "errors"


def _is_error(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(name.rsplit(".", 1)[-1], pattern)
