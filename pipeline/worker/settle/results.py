"""Results: the ends of plain tasks, recorded where they are kept, before their messages are deleted."""

import json
from collections.abc import Sequence
from typing import Any

import structlog
from celery import current_app, states
from celery.app.task import Context

from pipeline.errors import PayloadLostError, ServiceError
from pipeline.jobs import RecordedResult, TaskResults
from pipeline.patience import Patience
from pipeline.results.backend import recorded
from pipeline.results.report import Report
from pipeline.wire.references import ReferencedBody
from pipeline.worker.child.outcome import Discarded, Failed, Succeeded
from pipeline.worker.keptresults import keeps_result
from pipeline.worker.settle.work import Work

log = structlog.get_logger(__name__)


class ResultRecorder:
    """Records results. A task that keeps none costs no call."""

    def __init__(self, records: TaskResults, patience: Patience) -> None:
        self._records = records
        self._patience = patience

    def record(self, works: Sequence[Work]) -> list[ServiceError | None]:
        """Record how these tasks ended, together. Waits for DynamoDB during an outage.

        Return for each None, or the error that trying again would not change.
        """
        errors: list[ServiceError | None] = [None] * len(works)
        kept = {at: result for at, work in enumerate(works) if (result := _result_of(work)) is not None}
        if kept:
            answers = self._patience.each("record results", list(kept.values()), self._records.put_many)
            for at, error in zip(kept, answers, strict=True):
                errors[at] = error
        return errors

    def retry(self, work: Work) -> None:
        """Record that a task failed and runs again. Raise ``ServiceError``."""
        if (report := _failure_report(work)) is not None:
            self._records.put(recorded(work.task_id, _in_state(report, states.RETRY)))

    def fail(self, work: Work) -> None:
        """Record that a task failed for good, and so do those behind it in its chain. Raise ``ServiceError``.

        Repeat it when a reply was lost.
        """
        report = _failure_report(work)
        if report is None or work.lease.envelope is None:
            return
        self._records.put(recorded(work.task_id, report, work.lease.message_id))
        if chain := _embedded(work).get("chain"):
            meta = json.loads(report.text)
            current_app.backend.fail_chain(chain, meta["result"], meta["traceback"])


def _result_of(work: Work) -> RecordedResult | None:
    outcome = work.outcome
    report = outcome.report if isinstance(outcome, Succeeded | Discarded) else None
    if report is None or not report.kept:
        return None
    return recorded(work.task_id, report, work.lease.message_id)


def _failure_report(work: Work) -> Report | None:
    """Return the report of a failed task; None where it keeps none.

    A run that was killed told nothing, nor does a message that is given up on without a run.
    """
    failure, envelope = work.outcome, work.lease.envelope
    assert isinstance(failure, Failed)
    if envelope is None or not keeps_result(work.lease, failed=True):
        return None
    if failure.report is not None:
        return failure.report
    module, _, name = failure.error.rpartition(".")
    error = {"exc_type": name, "exc_message": [failure.message], "exc_module": module or "builtins"}
    request = {**envelope.headers, "args": envelope.args, "kwargs": envelope.kwargs, "delivery_info": {}}
    report: Report = current_app.backend.report(
        states.FAILURE, error, request=Context(request), traceback=failure.traceback
    )
    return report


def _in_state(report: Report, state: str) -> Report:
    return Report(state=state, text=report.text, keep_seconds=report.keep_seconds, kept=report.kept)


def _embedded(work: Work) -> dict[str, Any]:
    """Return callbacks, chain and the like of a plain task; of one whose body is on S3, read them there."""
    envelope = work.lease.envelope
    assert envelope is not None
    if envelope.reference is None:
        return dict(envelope.embed)
    try:
        kept = current_app.pipeline.payloads.get(ReferencedBody.read(envelope.body).reference)
    except PayloadLostError as lost:
        log.warning("results.chain_unknown", task_id=work.task_id, error=str(lost))
        return {}
    return dict(json.loads(kept)[2] or {})
