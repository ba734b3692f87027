"""Outgoing dead letters: a task that is not tried again, as its topic, its queue and its job receive it."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.jobs import FailedTask, Ref, ref_of
from pipeline.settings import Settings
from pipeline.sqs import MAX_MESSAGE_BYTES, OutgoingMessage, ReceivedMessage
from pipeline.wire import identity
from pipeline.wire.deadletter import DEAD_GROUP, encode_attributes
from pipeline.wire.events import trace_of
from pipeline.wire.failure import DATA_LIMIT, ErrorEvent, Failure, origin_of
from pipeline.wire.taskmessage import TaskHeader, first_at_of, generation_of
from pipeline.worker.child import outcome
from pipeline.worker.settle.work import Work


@dataclass(frozen=True, kw_only=True)
class OutgoingLetter:
    """A task's message on its way to the dead-letter queue."""

    message: ReceivedMessage
    #: ``failure.task_id`` is the message's own id where the message is no Celery message.
    failure: Failure
    #: None for a plain task, and for a message that is no task.
    header: TaskHeader | None
    #: Celery's headers.
    headers: Mapping[str, Any] = field(default_factory=dict)

    @property
    def error_id(self) -> str:
        """The id of its error event: the same each time this message is dead-lettered."""
        return identity.error_event_id(self.failure.task_id or "", self.message.message_id)

    @property
    def traceparent(self) -> str | None:
        """The trace that its message continues."""
        return trace_of(self.headers)[0]

    def error_event(self, settings: Settings) -> ErrorEvent:
        """Return its event for the errors topic."""
        return ErrorEvent(
            **self.failure.facts(),
            kind="task",
            service=settings.service_name,
            data=self.message.body[:DATA_LIMIT],
            headers=dict(self.headers),
            cut=len(self.message.body) > DATA_LIMIT,
        )

    def to_sqs(self) -> OutgoingMessage:
        """Return the message for the dead-letter queue: the same body, with the reason.

        It is a message group of its own: behind another letter of its group nobody could read it. Its
        deduplication id is the id of the message it comes from: under the task's id SQS would take a second
        dead letter for the first and drop it, and the delete that follows would lose the task.
        """
        letter = self._message(encode_attributes(self.failure))
        if letter.size > MAX_MESSAGE_BYTES:
            letter = self._message(encode_attributes(self.failure, tight=True))
        # A message that others sent may leave no room at all.
        return letter if letter.size <= MAX_MESSAGE_BYTES else self._message({})

    def failed_task(self) -> FailedTask | None:
        """Return its failure for the job; None for a task of no job."""
        if self.header is None:
            return None
        return failed_task(ref_of(self.header), self.failure, self.failure.digest(self.message.body))

    def _message(self, attributes: Mapping[str, str]) -> OutgoingMessage:
        message_id = self.message.message_id
        return OutgoingMessage(
            body=self.message.body,
            group_id=DEAD_GROUP + message_id,
            deduplication_id=message_id,
            attributes=attributes,
        )


def letter_of(work: Work, worker: str | None) -> OutgoingLetter:
    """Return the dead letter of a task that ``worker`` gives up on now."""
    failed, message = work.outcome, work.lease.message
    assert isinstance(failed, outcome.Failed)
    failure = Failure(
        **origin_of(work.header),
        task_id=work.task_id,
        attempts=work.lease.attempts,
        error=failed.error,
        reason=failed.message,
        traceback=failed.traceback,
        worker=worker,
        generation=generation_of(message.attributes),
        first_at=first_at_of(message.attributes) or message.sent_at,
        failed_at=time.time(),
        queue=work.lease.queue,
        group_id=message.group_id,
    )
    return OutgoingLetter(message=message, failure=failure, header=work.header, headers=work.lease.headers)


def failed_task(ref: Ref, failure: Failure, digest: str = "") -> FailedTask:
    """Return the record of a failure for its job. ``digest``: of its message, which an event has not."""
    return FailedTask(
        ref=ref,
        task_id=failure.task_id or "",
        error=failure.error,
        message=failure.reason,
        attempts=failure.attempts,
        failed_at=failure.failed_at,
        generation=failure.generation,
        digest=digest,
    )
