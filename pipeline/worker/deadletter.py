"""Dead letters: a task that is given up on ends where a person can see it, and nothing of it is lost.

The order is the promise: event on the errors topic, message on the SQS dead-letter queue, failure
recorded in its job. Its message is deleted only after that, so a crash repeats the path and runs no
user code.
"""

from collections.abc import Mapping, Sequence

import structlog

from config.settings import Settings
from pipeline.errorevents import emit_errors
from pipeline.jobs import Closing, Failed, JobStore
from pipeline.kafka import EventProducer, Record
from pipeline.patience import Patience, raise_first
from pipeline.sqs import SqsQueue, sqs_client
from pipeline.taskmessage import TRACEPARENT
from pipeline.telemetry.fields import header_fields
from pipeline.telemetry.sentry import Sentry
from pipeline.worker import outcome
from pipeline.worker.closing import EMIT_TIMEOUT, NO_TRACES, Closer
from pipeline.worker.givenup import GivenUp, give_up
from pipeline.worker.work import Work

log = structlog.get_logger(__name__)


class DeadLetters:
    """Buries what is given up on. Waits for services that are away."""

    def __init__(
        self,
        settings: Settings,
        store: JobStore,
        producer: EventProducer,
        closer: Closer,
        patience: Patience,
        worker: str | None = None,
    ) -> None:
        self._settings = settings
        self._dlq = SqsQueue(sqs_client(settings), settings.sqs_dlq_url)
        self._store = store
        self._producer = producer
        self._closer = closer
        self._patience = patience
        self._worker = worker
        self._sentry = Sentry(settings)

    def bury(self, works: Sequence[Work]) -> None:
        """See what a worker gives up on to its end; only then may its messages be deleted."""
        self.bury_messages([give_up(work, self._worker) for work in works])
        for work in works:
            failure = _failure(work)
            work.send_event(
                "task-failed", exception=f"{failure.error}({failure.message!r})", traceback=failure.traceback
            )

    def bury_messages(self, given_up: Sequence[GivenUp]) -> None:
        """The same for messages, whoever found that they are to be given up on."""
        if not given_up:
            return
        emit_errors(
            self._settings,
            [(each.error_id, each.error_event(self._settings)) for each in given_up],
            self._emit,
        )
        letters = [each.letter() for each in given_up]
        raise_first(self._patience.each("dead-letter queue", letters, self._dlq.send))
        self.record([failed for each in given_up if (failed := each.failed()) is not None], _traces(given_up))
        for each in given_up:
            _log(each)
            self._report(each)

    def close(self) -> None:
        """Let go, after the last burial."""
        self._sentry.close()

    def record(self, failed: Sequence[Failed], traces: Mapping[str, str] = NO_TRACES) -> None:
        """Record dead letters as failed in their jobs, close what that ends; ``traces``: see ``Closer``."""
        closings: list[Closing] = []

        def call(items: list[Failed]) -> Sequence[Exception | None]:
            recorded = self._store.record_failed(items)
            closings.extend(recorded.closings)
            return recorded.errors

        errors = self._patience.each("record failed", failed, call)
        for task, error in zip(failed, errors, strict=True):
            if error is not None:
                # The dead letter is safe; a job whose record expired has nobody left to tell.
                log.error("job.failure_not_recorded", job_id=task.ref.job_id, error=str(error))
        redriven = [task for task, error in zip(failed, errors, strict=True) if task.generation and not error]
        self._closer.close([*closings, *self._rechecked(redriven)], traces)

    def _report(self, given_up: GivenUp) -> None:
        fields = header_fields(given_up.header, given_up.headers.get(TRACEPARENT))
        self._sentry.report(
            error=given_up.error,
            message=given_up.reason,
            traceback=given_up.traceback,
            stage=fields.get("stage"),
            tags={**fields, "task_id": given_up.task_id, "attempts": given_up.attempts},
        )

    def _rechecked(self, redriven: Sequence[Failed]) -> list[Closing]:
        """What else of a redriven task's job ended before: its redrive took the job as running again."""
        closings: list[Closing] = []
        for job_id in {task.ref.job_id for task in redriven}:
            closings += self._patience.one("recheck", lambda job_id=job_id: self._store.recheck(job_id))  # type: ignore[misc]
        return closings

    def _emit(self, records: Sequence[Record]) -> Sequence[Exception | None]:
        return self._patience.each(
            "errors topic", records, lambda batch: self._producer.emit(batch, EMIT_TIMEOUT)
        )


def _traces(given_up: Sequence[GivenUp]) -> dict[str, str]:
    """By job, the trace of what of it is given up on."""
    return {each.header.job_id: each.traceparent for each in given_up if each.header and each.traceparent}


def _failure(work: Work) -> outcome.Failed:
    assert isinstance(work.outcome, outcome.Failed)
    return work.outcome


def _log(given_up: GivenUp) -> None:
    log.error(
        "task.dead_letter",
        task_id=given_up.task_id,
        **header_fields(given_up.header, given_up.headers.get(TRACEPARENT)),
        attempts=given_up.attempts,
        error=given_up.error,
        message=given_up.reason,
        exception=given_up.traceback,
    )
