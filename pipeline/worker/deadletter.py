"""Dead letters: a task that is given up on ends where a person can see it, and nothing of it is lost.

The order is the promise: event on the errors topic, message on the SQS dead-letter queue, failure
recorded in its job. Its message is deleted only after that, so a crash repeats the path and runs no
user code.
"""

import re
import time
from collections.abc import Sequence
from dataclasses import replace

import structlog

from config.settings import Settings
from pipeline import identity
from pipeline.errorevents import DATA_LIMIT, ErrorEvent, error_record
from pipeline.jobs import Closing, JobStore
from pipeline.jobs import Failed as FailedTask
from pipeline.kafka import EventProducer
from pipeline.sqs import MAX_MESSAGE_BYTES, OutgoingMessage, SqsQueue
from pipeline.taskmessage import ATTEMPTS, ERROR, FAILED_AT, REASON, SOURCE_QUEUE
from pipeline.transport.inbound import Inbound
from pipeline.worker.closing import EMIT_TIMEOUT, Closer
from pipeline.worker.outcome import Failed
from pipeline.worker.patience import Patience, raise_first
from pipeline.worker.work import Work, ref_of

log = structlog.get_logger(__name__)

_REFUSED = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
#: Characters of the reason kept in the attribute; the errors topic has the whole.
REASON_LIMIT = 500


class DeadLetters:
    """Buries what is given up on."""

    def __init__(
        self,
        settings: Settings,
        inbound: Inbound,
        store: JobStore,
        producer: EventProducer,
        closer: Closer,
        patience: Patience,
        worker: str,
    ) -> None:
        self._settings = settings
        self._dlq: SqsQueue = inbound.queue(settings.sqs_dlq_url.rsplit("/", 1)[1])
        self._store = store
        self._producer = producer
        self._closer = closer
        self._patience = patience
        self._worker = worker

    def bury(self, works: Sequence[Work]) -> None:
        """See each to its end; waits for services that are away."""
        if not works:
            return
        self._explain(works)
        self._send(works)
        self._record(works)
        for work in works:
            self._announce(work)

    def _explain(self, works: Sequence[Work]) -> None:
        records = [
            error_record(
                self._settings,
                identity.error_event_id(work.task_id, work.lease.message.message_id),
                self._error(work),
            )
            for work in works
        ]
        answers = self._patience.each(
            "errors topic", records, lambda batch: self._producer.emit(batch, EMIT_TIMEOUT)
        )
        raise_first(answers)

    def _send(self, works: Sequence[Work]) -> None:
        messages = [self._dead_letter(work) for work in works]
        raise_first(self._patience.each("dead-letter queue", messages, self._dlq.send))

    def _record(self, works: Sequence[Work]) -> None:
        failed = [task for work in works if (task := self._failed_task(work)) is not None]
        closings: list[Closing] = []

        def call(items: list[FailedTask]) -> Sequence[Exception | None]:
            recorded = self._store.record_failed(items)
            closings.extend(recorded.closings)
            return recorded.errors

        errors = self._patience.each("record failed", failed, call)
        for task, error in zip(failed, errors, strict=True):
            if error is not None:
                # The dead letter is safe; a job whose record expired has nobody left to tell.
                log.error("job.failure_not_recorded", job_id=task.ref.job_id, error=str(error))
        self._closer.close(closings)

    def _announce(self, work: Work) -> None:
        failure = _failure(work)
        log.error(
            "task.dead_letter",
            task_id=work.task_id,
            stage=work.header.stage if work.header else None,
            job_id=work.header.job_id if work.header else None,
            attempts=work.lease.attempts,
            error=failure.error,
            message=failure.message,
        )
        work.send_event(
            "task-failed", exception=f"{failure.error}({failure.message!r})", traceback=failure.traceback
        )

    def _error(self, work: Work) -> ErrorEvent:
        failure, header, message = _failure(work), work.header, work.lease.message
        part = (
            (f"{header.part.ordinal}/{header.part.total}" if header.part else header.role) if header else None
        )
        return ErrorEvent(
            kind="task",
            service=self._settings.service_name,
            job_id=header.job_id if header else None,
            stage=header.stage if header else None,
            task_id=work.task_id,
            part=part,
            entity_id=header.entity_id if header else None,
            attempts=work.lease.attempts,
            error=failure.error,
            message=failure.message,
            traceback=failure.traceback,
            worker=self._worker,
            first_at=message.sent_at,
            failed_at=time.time(),
            topic=header.topic if header else None,
            partition=header.partition if header else None,
            offset=header.offset if header else None,
            data=message.body[:DATA_LIMIT],
        )

    def _dead_letter(self, work: Work) -> OutgoingMessage:
        failure, message = _failure(work), work.lease.message
        letter = OutgoingMessage(
            body=message.body,
            group_id=message.group_id,
            # The message's own id: under the task's, SQS would take a second dead letter for the first
            # and drop it, and the delete that follows would lose the task.
            deduplication_id=message.message_id,
            attributes={
                REASON: _allowed(failure.message)[:REASON_LIMIT] or "no message",
                ERROR: _allowed(failure.error)[:REASON_LIMIT],
                ATTEMPTS: str(work.lease.attempts),
                SOURCE_QUEUE: work.lease.queue,
                FAILED_AT: f"{time.time():.3f}",
            },
        )
        # A message that fills SQS's limit leaves room for a word; the errors topic has the rest.
        return letter if letter.size <= MAX_MESSAGE_BYTES else replace(letter, attributes={REASON: "failed"})

    def _failed_task(self, work: Work) -> FailedTask | None:
        if work.header is None:
            return None
        failure = _failure(work)
        return FailedTask(
            ref=ref_of(work.header),
            task_id=work.task_id,
            error=failure.error,
            message=failure.message,
            attempts=work.lease.attempts,
            failed_at=time.time(),
        )


def _allowed(text: str) -> str:
    """Without the control characters that SQS refuses in text (SendMessage, API reference)."""
    return _REFUSED.sub("\N{REPLACEMENT CHARACTER}", text)


def _failure(work: Work) -> Failed:
    assert isinstance(work.outcome, Failed)
    return work.outcome
