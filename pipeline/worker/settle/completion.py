"""Completion of tasks that succeeded: emit, record, close, in this order, whatever queue they came from."""

import time
from collections.abc import Callable, Mapping, Sequence

import structlog

from pipeline.jobs import Done, PartDone, PartRef, Recorded, StageDone, StageRef, ref_of
from pipeline.ledger import EmittedTask, Ledger
from pipeline.telemetry.metrics import time_step
from pipeline.wire.plans import JobPlan
from pipeline.wire.taskmessage import generation_of
from pipeline.worker.child.outcome import AlreadyDone, Succeeded
from pipeline.worker.settle.emit import Emitter, kept_result
from pipeline.worker.settle.plans import Plans
from pipeline.worker.settle.work import Work, count, keep, traces_of

log = structlog.get_logger(__name__)


class Completion:
    """Completes tasks. Recorded implies emitted, so a recorded task may be skipped safely."""

    def __init__(self, emitter: Emitter, recorder: "Recorder", ledger: Ledger) -> None:
        self._emitter = emitter
        self._recorder = recorder
        self._ledger = ledger

    def complete(
        self,
        works: Sequence[Work],
        refused: list[Work],
        on_recorded: Callable[[Work], None] = lambda _: None,
    ) -> list[Work]:
        """Complete tasks and return them; their messages may be deleted.

        Those that never can be emitted or recorded join ``refused``, with the failure as their outcome. Those
        behind them in their lanes are in neither: complete them again when the refused are dead letters.
        """
        if not works:
            return []
        with time_step("emit"):
            emitted = keep(works, self._emitter.emit(works), refused)
        with time_step("record"):
            recorded = self._recorder.record(emitted)
        completed = keep(emitted, recorded.errors, refused)
        for work in completed:
            on_recorded(work)
        with time_step("close"):
            self._ledger.close(recorded.closings, traces_of(completed))
        for work in completed:
            count(work)
            if isinstance(work.outcome, Succeeded):
                log.info("task.done", **work.log_fields(work.lease.attempts + 1))
        return completed


class Recorder:
    """Records emitted tasks as done in their jobs."""

    def __init__(self, plans: Plans, ledger: Ledger, worker: str) -> None:
        """``worker``: the Celery node name that is recorded."""
        self._plans = plans
        self._ledger = ledger
        self._worker = worker

    def record(self, works: Sequence[Work]) -> Recorded:
        """Record each task. Close the answer's ``closings`` before any of their messages is deleted."""
        headers = [work.header for work in works if work.header]
        plans = self._plans.of(header for header in headers if header.role in ("run", "gather"))
        return self._ledger.record([self._emitted(work, plans) for work in works])

    def _emitted(self, work: Work, plans: Mapping[str, JobPlan]) -> EmittedTask:
        if work.header is None:
            return EmittedTask()
        return EmittedTask(
            done=self._done(work, plans),
            redriven=work.header.job_id if generation_of(work.lease.message.attributes) else None,
            left_open=work.outcome.closings if isinstance(work.outcome, AlreadyDone) else (),
        )

    def _done(self, work: Work, plans: Mapping[str, JobPlan]) -> Done | None:
        """Return what to record; None for a split: its parts and its gather count."""
        if work.header is None or not isinstance(work.outcome, Succeeded):
            return None
        ref = ref_of(work.header)
        if isinstance(ref, PartRef):
            return PartDone(ref=ref, result=kept_result(work))
        if isinstance(ref, StageRef):
            result = work.outcome.result
            ends_path = result is None or plans[ref.job_id].ends_path(ref.stage)
            return StageDone(
                ref=ref,
                task_id=work.task_id,
                ends_path=ends_path,
                result=result if ends_path else None,
                entity=work.outcome.entity,
                run_seconds=work.outcome.seconds,
                finished_at=time.time(),
                worker=self._worker,
            )
        return None
