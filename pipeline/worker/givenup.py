"""What is given up on: a message that will not be tried again, and why."""

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from config.settings import Settings
from pipeline import identity
from pipeline.errorevents import DATA_LIMIT, ErrorEvent
from pipeline.events import trace_of
from pipeline.jobs import Failed
from pipeline.sqs import MAX_MESSAGE_BYTES, OutgoingMessage, ReceivedMessage
from pipeline.taskmessage import (
    ATTEMPTS,
    DEAD_GROUP,
    ERROR,
    FAILED_AT,
    FIRST_AT,
    GENERATION,
    GROUP,
    REASON,
    SOURCE_QUEUE,
    TRACEBACK,
    WORKER,
    TaskHeader,
    first_at_of,
    generation_of,
)
from pipeline.worker import outcome
from pipeline.worker.work import Work, ref_of

_REFUSED = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

#: Characters kept in the attributes of a dead letter; the errors topic has more.
REASON_LIMIT, ERROR_LIMIT, TRACEBACK_LIMIT = 500, 200, 4_000
#: The same where the body leaves no more room than every task leaves.
TIGHT_LIMIT = 100


@dataclass(frozen=True, kw_only=True)
class GivenUp:
    """A message on its way to the dead-letter queue."""

    message: ReceivedMessage
    #: The queue it was sent to, by name.
    queue: str
    #: The message's own id for one that is no Celery message.
    task_id: str
    #: None for a plain task, and for what is no task.
    header: TaskHeader | None
    #: Celery's headers.
    headers: Mapping[str, Any] = field(default_factory=dict)
    #: Failed runs.
    attempts: int
    #: The class of the exception.
    error: str
    reason: str
    traceback: str = ""
    #: The Celery node name of the worker; None where none was at work.
    worker: str | None
    #: Seconds since 1970.
    failed_at: float

    @property
    def error_id(self) -> str:
        """The id of its error event: the same when this way out is gone again."""
        return identity.error_event_id(self.task_id, self.message.message_id)

    @property
    def part(self) -> str | None:
        """Which part of a split it is, or the role of the task in its stage."""
        if self.header is None:
            return None
        part = self.header.part
        return f"{part.ordinal}/{part.total}" if part else self.header.role

    @property
    def traceparent(self) -> str | None:
        """The trace that its message continues."""
        return trace_of(self.headers)[0]

    @property
    def generation(self) -> int:
        """How often it was redriven before."""
        return generation_of(self.message.attributes)

    @property
    def first_at(self) -> float:
        """When its first message was sent."""
        return first_at_of(self.message.attributes) or self.message.sent_at

    def error_event(self, settings: Settings) -> ErrorEvent:
        """What the errors topic is told."""
        header = self.header
        return ErrorEvent(
            kind="task",
            service=settings.service_name,
            job_id=header.job_id if header else None,
            stage=header.stage if header else None,
            task_id=self.task_id,
            part=self.part,
            entity_id=header.entity_id if header else None,
            attempts=self.attempts,
            error=self.error,
            message=self.reason,
            traceback=self.traceback,
            worker=self.worker,
            generation=self.generation,
            first_at=self.first_at,
            failed_at=self.failed_at,
            queue=self.queue,
            group_id=self.message.group_id,
            topic=header.topic if header else None,
            partition=header.partition if header else None,
            offset=header.offset if header else None,
            data=self.message.body[:DATA_LIMIT],
            headers=dict(self.headers),
            cut=len(self.message.body) > DATA_LIMIT,
        )

    def letter(self) -> OutgoingMessage:
        """The message on the dead-letter queue: the same body, with why it is there.

        It is a group of its own there: behind another of its group nobody could look at it. Its
        deduplication id is the id of the message it comes from: under the task's, SQS would take a second
        dead letter for the first and drop it, and the delete that follows would lose the task.
        """
        letter = self._letter(self._attributes(REASON_LIMIT, ERROR_LIMIT, TRACEBACK_LIMIT))
        if letter.size > MAX_MESSAGE_BYTES:
            letter = self._letter(self._attributes(TIGHT_LIMIT, TIGHT_LIMIT, 0))
        # What was not sent by this project may leave no room at all.
        return letter if letter.size <= MAX_MESSAGE_BYTES else self._letter({})

    def failed(self) -> Failed | None:
        """What its job is told; None for what belongs to no job."""
        if self.header is None:
            return None
        return Failed(
            ref=ref_of(self.header),
            task_id=self.task_id,
            error=self.error,
            message=self.reason,
            attempts=self.attempts,
            failed_at=self.failed_at,
            generation=self.generation,
        )

    def _letter(self, attributes: Mapping[str, str]) -> OutgoingMessage:
        message_id = self.message.message_id
        return OutgoingMessage(
            body=self.message.body,
            group_id=DEAD_GROUP + message_id,
            deduplication_id=message_id,
            attributes=attributes,
        )

    def _attributes(self, reason: int, error: int, traceback: int) -> dict[str, str]:
        attributes = {
            REASON: _allowed(self.reason)[:reason] or "no message",
            ERROR: _allowed(self.error)[:error] or "Error",
            # The end of a traceback says what went wrong.
            TRACEBACK: _allowed(self.traceback)[-traceback:] if traceback else "",
            ATTEMPTS: str(self.attempts),
            WORKER: _allowed(self.worker or "")[:TIGHT_LIMIT],
            SOURCE_QUEUE: self.queue,
            GROUP: self.message.group_id,
            FIRST_AT: f"{self.first_at:.3f}",
            FAILED_AT: f"{self.failed_at:.3f}",
            GENERATION: str(self.generation or ""),
        }
        # SQS refuses an empty value.
        return {name: value for name, value in attributes.items() if value}


def give_up(work: Work, worker: str | None) -> GivenUp:
    """A piece of work that ``worker`` gives up on now."""
    failure = work.outcome
    assert isinstance(failure, outcome.Failed)
    return GivenUp(
        message=work.lease.message,
        queue=work.lease.queue,
        task_id=work.task_id,
        header=work.header,
        headers=work.lease.payload.get("headers", {}),
        attempts=work.lease.attempts,
        error=failure.error,
        reason=failure.message,
        traceback=failure.traceback,
        worker=worker,
        failed_at=time.time(),
    )


def _allowed(text: str) -> str:
    """Without the control characters that SQS refuses in text (SendMessage, API reference)."""
    return _REFUSED.sub("\N{REPLACEMENT CHARACTER}", text)
