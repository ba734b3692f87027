"""Dead letters: tasks that failed for good go to the errors topic, the dead-letter queue and their job.

The order is the promise: event on the errors topic, message on the SQS dead-letter queue, failure recorded
in the job. The task's message is deleted only after that, so a crash repeats the path and runs no user code.
"""

from collections.abc import Sequence
from typing import Any

import structlog

from pipeline.jobs import PartFailure
from pipeline.ledger import Ledger
from pipeline.patience import Patience, raise_first
from pipeline.settings import Settings
from pipeline.sqs import SqsQueue, sqs_client
from pipeline.telemetry.fields import task_fields
from pipeline.telemetry.sentry import Sentry
from pipeline.wire.taskmessage import TRACEPARENT
from pipeline.worker.child import outcome
from pipeline.worker.settle.chords import Chords
from pipeline.worker.settle.outgoingletter import OutgoingLetter, letter_of
from pipeline.worker.settle.work import Work

log = structlog.get_logger(__name__)


class DeadLetters:
    """Dead-letters tasks. Waits for services during an outage."""

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        chords: Chords,
        patience: Patience,
        worker: str | None = None,
    ) -> None:
        self._settings = settings
        self._dlq = SqsQueue(sqs_client(settings), settings.sqs_dlq_url)
        self._ledger = ledger
        self._chords = chords
        self._patience = patience
        self._worker = worker
        self._sentry = Sentry(settings)

    def dead_letter(self, works: Sequence[Work]) -> None:
        """Dead-letter tasks that a worker gave up on. Then fail their chords, and delete their messages."""
        self._send([letter_of(work, self._worker) for work in works])
        for work in works:
            failure = _failure(work)
            work.send_event(
                "task-failed", exception=f"{failure.error}({failure.message!r})", traceback=failure.traceback
            )

    def dead_letter_messages(self, letters: Sequence[OutgoingLetter]) -> None:
        """Dead-letter messages that no worker gave up on, and fail their chords."""
        self._send(letters)
        for letter in letters:
            if letter.header is None:
                failure = letter.failure
                told = PartFailure(task_id=failure.task_id or "", error=failure.error, message=failure.reason)
                self._chords.fail(letter.message.body, told, failure.queue)

    def _send(self, letters: Sequence[OutgoingLetter]) -> None:
        if not letters:
            return
        self._ledger.report([(letter.error_id, letter.error_event(self._settings)) for letter in letters])
        messages = [letter.to_sqs() for letter in letters]
        raise_first(self._patience.each("dead-letter queue", messages, self._dlq.send))
        failed = [task for letter in letters if (task := letter.failed_task()) is not None]
        self._ledger.close(self._ledger.fail(failed).closings, _traces(letters))
        for letter in letters:
            _log(letter)
            self._report(letter)

    def close(self) -> None:
        """Close the connection to Sentry, after the last dead letter."""
        self._sentry.close()

    def _report(self, letter: OutgoingLetter) -> None:
        failure, fields = letter.failure, _fields(letter)
        self._sentry.report(
            error=failure.error,
            message=failure.reason,
            traceback=failure.traceback,
            stage=fields.get("stage"),
            tags={**fields, "task_id": failure.task_id, "attempts": failure.attempts},
        )


def _traces(letters: Sequence[OutgoingLetter]) -> dict[str, str]:
    """Return by job id the ``traceparent`` of a task of it."""
    return {
        letter.header.job_id: letter.traceparent for letter in letters if letter.header and letter.traceparent
    }


def _failure(work: Work) -> outcome.Failed:
    assert isinstance(work.outcome, outcome.Failed)
    return work.outcome


def _fields(letter: OutgoingLetter) -> dict[str, Any]:
    return task_fields(letter.headers, letter.header, letter.headers.get(TRACEPARENT))


def _log(letter: OutgoingLetter) -> None:
    failure = letter.failure
    log.error(
        "task.dead_letter",
        task_id=failure.task_id,
        **_fields(letter),
        attempts=failure.attempts,
        error=failure.error,
        message=failure.reason,
        exception=failure.traceback,
    )
