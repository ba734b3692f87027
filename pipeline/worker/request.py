"""Celery's request of a task, in which every way a task can end leads to settlement, once."""

import time
from typing import Any, ClassVar
from weakref import ref

import structlog
from billiard.einfo import ExceptionInfo, ExceptionWithTraceback
from celery import states
from celery.exceptions import TaskRevokedError, Terminated, TimeLimitExceeded
from celery.signals import task_failure, task_revoked
from celery.worker import request as base
from celery.worker import state

from pipeline.control.taskcounts import STANDS_FOR
from pipeline.telemetry import metrics
from pipeline.telemetry.fields import header_fields
from pipeline.telemetry.spans import Span
from pipeline.transport.lease import Lease
from pipeline.wire.taskmessage import HEADER, TaskHeader
from pipeline.worker.celerysettings import LONGEST_RUN
from pipeline.worker.child import trace
from pipeline.worker.child.outcome import (
    Cancelled,
    Discarded,
    Failed,
    Outcome,
    Returned,
    Succeeded,
    failed,
)
from pipeline.worker.child.runoptions import RunOptions
from pipeline.worker.runtime import WorkerRuntime
from pipeline.worker.sample import sample_key
from pipeline.worker.settle.work import Work
from pipeline.worker.spans import end_span, start_span
from pipeline.worker.taskcounts import FAILURES

log = structlog.get_logger(__name__)

#: Seconds that the pool may need to kill a run at its hard limit.
KILL_GRACE = 30.0


class Request(base.Request):  # type: ignore[misc]
    """A task message on its way through the pool.

    Celery deletes the message on revoke, on a hard limit, when a child is killed, on ``Reject`` and on
    ``Ignore``. Here ``acknowledge`` does nothing, and settlement decides about the message by the outcome.
    """

    #: the runtime of the worker (``request_class``)
    runtime: ClassVar[WorkerRuntime]
    _already_revoked = False
    _failed_before = 0
    _span: Span | None = None

    def __init__(self, message: Any, **kwargs: Any) -> None:
        super().__init__(message, **kwargs)
        lease = self.runtime.intake.delivered(message.delivery_tag)
        #: how many tasks its events stand for; 0: only failures are sent
        self._stands_for = self.runtime.sample.take(
            sample_key(self.request_dict, lease.header if lease else None)
        )
        if lease is not None and lease.attempts:
            # Its retry was sent, so its end is, too.
            self._stands_for = max(1, self._stands_for)
        if self._eventer:
            self._eventer.hidden = "" if self._stands_for else self.id

    def __init_subclass__(cls, **kwargs: Any) -> None:
        # celery.worker.request.create_request_cls subclasses this class for speed, with versions of these
        # two that trace and acknowledge in Celery's way.
        super().__init_subclass__(**kwargs)
        for name in ("execute_using_pool", "on_success"):
            if name in cls.__dict__:
                delattr(cls, name)

    def execute_using_pool(self, pool: Any, **kwargs: Any) -> Any:
        """Give the task to the pool, unless it was revoked or its lease is too short for the run."""
        if self.revoked():
            raise TaskRevokedError(self.id)
        lease = self.runtime.intake.delivered(self.message.delivery_tag)
        header = lease.header if lease else None
        if header is not None and header.job_id in self.runtime.cancelled_jobs:
            self.skip(header)
            raise TaskRevokedError(self.id)
        limit, soft_limit = self._limits()
        if lease is None or not lease.startable(limit or 0):
            self.settle(Returned())
            raise TaskRevokedError(self.id)  # what makes the worker free the slot
        metrics.TASKS_STARTED.labels(self.name).inc()
        self._span = start_span(lease)
        result = pool.apply_async(
            trace.run,
            args=(
                self.type,
                self.id,
                self.request_dict,
                self.body,
                self.content_type,
                self.content_encoding,
                self._start(lease, limit, soft_limit),
            ),
            accept_callback=self.on_accepted,
            timeout_callback=self.on_timeout,
            callback=self.on_success,
            error_callback=self.on_failure,
            soft_timeout=soft_limit,
            timeout=limit,
            correlation_id=self.id,
        )
        self._apply_result = ref(result) if result is not None else None
        return result

    def _limits(self) -> tuple[float | None, float | None]:
        """Return the hard and the soft limit of the run in seconds; None in pools that have none."""
        if not self.runtime.pool_kills:
            return None, None
        hard, soft = self.time_limits
        # A remote control command may take the task's own limit away; there is always one.
        hard = hard or self.task.time_limit or self.app.conf.task_time_limit or self.runtime.time_limit
        return min(hard, LONGEST_RUN), soft or self.task.soft_time_limit

    def _start(self, lease: Lease, limit: float | None, soft_limit: float | None) -> RunOptions:
        # Not after the end of the lease as it is now: if this process is frozen before the child starts,
        # another worker may run the message meanwhile. A child that starts too late gives it back.
        start_before = lease.start_by
        over_by = lease.last_end if limit is None else start_before + limit + KILL_GRACE
        self.runtime.intake.started(lease, over_by)
        self._failed_before = lease.attempts
        return RunOptions(
            attempt=lease.attempts + 1,
            limit=limit,
            soft_limit=soft_limit,
            start_before=start_before,
            mark=(lease.message_id, lease.message.receive_count) if lease.suspect else None,
            traceparent=self._span.traceparent if self._span else None,
        )

    def send_event(self, type: str, **fields: Any) -> None:
        """Send a task event with the task's name: its reader may not know the task yet.

        The event of a started run says how many runs failed before it. Of a job that is not in the sample
        only failures are sent, with what the other events would have told.
        """
        self.runtime.counts.take(type, self.name, has_run="runtime" in fields)
        if not self._stands_for:
            if type not in FAILURES:
                return
            fields.update(
                args=self.argsrepr, kwargs=self.kwargsrepr, root_id=self.root_id, parent_id=self.parent_id
            )
        fields.setdefault("name", self.name)
        if type == "task-started":
            fields["retries"] = self._failed_before
        if type == "task-succeeded" and self._stands_for > 1:
            fields[STANDS_FOR] = self._stands_for
        super().send_event(type, **fields)

    def info(self, safe: bool = False) -> dict[str, Any]:
        """Return what ``inspect active`` shows: a running task is acknowledged, as by default in Celery.

        Its message is on SQS until settlement deletes it, but no other worker is given it.
        """
        shown: dict[str, Any] = super().info(safe)
        return shown | {"acknowledged": self.worker_pid is not None}

    # ─── Ends ───

    def skip(self, header: TaskHeader) -> None:
        """End the task without a run, because its job is cancelled."""
        log.info("task.cancelled", task_id=self.id, **header_fields(header, None))
        self.send_event("task-revoked", terminated=False, signum=None, expired=False)
        self.settle(Cancelled())

    def on_success(self, outcome: Outcome, **kwargs: Any) -> None:
        """Settle what the child answered; the task itself may have failed."""
        if isinstance(outcome, Failed | Returned) and outcome.rejected:
            self.send_event("task-rejected", requeue=isinstance(outcome, Returned))
        if isinstance(outcome, Outcome):
            self.settle(outcome)
        else:  # what the threads pool makes of an exit
            self.on_failure(outcome)

    def on_failure(
        self, exc_info: ExceptionInfo, send_failed_event: bool = True, return_ok: bool = False
    ) -> None:
        """Settle a run whose child did not answer, because it was killed or ended by itself."""
        error = exc_info.exception
        if isinstance(error, ExceptionWithTraceback):
            error = error.exc
        if isinstance(error, Terminated) and not self._already_cancelled:
            self._announce_revoked("terminated", True, str(error), False)
        elif self._already_cancelled or _stopping():
            self.settle(Returned())
        else:
            self._fail_killed(error)

    def on_timeout(self, soft: bool, timeout: float) -> None:
        """Settle a run that the pool killed at its hard limit; log that the soft limit was raised in it."""
        if soft:
            log.warning("task.soft_time_limit", task=self.name, task_id=self.id, seconds=timeout)
        elif _stopping():
            self.settle(Returned())
        else:
            self._fail_killed(TimeLimitExceeded(timeout))

    def _fail_killed(self, error: BaseException) -> None:
        """Fail a run that could not call its task's hooks, and call them here, as Celery does."""
        if self.runtime.intake.delivered(self.message.delivery_tag) is None:
            return
        seconds = time.time() - self.time_start if self.time_start else 0.0
        self.settle(failed(error, max(0.0, seconds)))
        info = _info_of(error)
        for call in (self._call_on_failure, self._call_after_return, self._send_task_failure):
            try:
                call(error, info)
            except Exception:
                # User code on the worker's event loop, which an error would end.
                log.exception("task.hook_failed", task=self.name, task_id=self.id, hook=call.__name__)

    def _call_on_failure(self, error: BaseException, info: ExceptionInfo) -> None:
        self.task.on_failure(error, self.id, self.args, self.kwargs, info)

    def _call_after_return(self, error: BaseException, info: ExceptionInfo) -> None:
        self.task.after_return(states.FAILURE, error, self.id, self.args, self.kwargs, info)

    def _send_task_failure(self, error: BaseException, info: ExceptionInfo) -> None:
        task_failure.send(
            sender=self.task,
            task_id=self.id,
            exception=error,
            args=self.args,
            kwargs=self.kwargs,
            traceback=info.traceback,
            einfo=info,
        )

    def acknowledge(self) -> None:
        """Do nothing: only settlement deletes a message."""

    def reject(self, requeue: bool = False) -> None:
        """Settle a task that Celery cannot take, for example because of an eta it cannot read."""
        if requeue:
            self.settle(Returned())
        else:
            self.settle(
                Failed(error="celery.exceptions.InvalidTaskError", message="rejected", permanent=True)
            )

    def _announce_revoked(self, reason: str, terminated: bool, signum: Any, expired: bool) -> None:
        if self._already_revoked:
            return
        self._already_revoked = True
        self.send_event("task-revoked", terminated=terminated, signum=signum, expired=expired)
        task_revoked.send(
            sender=self.task, request=self._context, terminated=terminated, signum=signum, expired=expired
        )
        if self.request_dict.get(HEADER) is None:
            kept = self.store_errors
            error = TaskRevokedError(reason)
            report = self.task.backend.report(states.REVOKED, error, request=self._context) if kept else None
            self.settle(Discarded(reason=reason, report=report))
        else:
            # A job counts its tasks: one that will never run is a failure a person can see and redrive.
            self.settle(Failed(error="celery.exceptions.TaskRevokedError", message=reason, permanent=True))

    def terminate(self, pool: Any, signal: Any = None) -> None:
        """Kill the run, if the pool can."""
        try:
            super().terminate(pool, signal)
        except NotImplementedError:
            log.warning("task.not_terminated", task_id=self.id, reason="this pool cannot end a running task")

    def cancel(self, pool: Any, signal: Any = None, emit_retry: bool = True) -> None:
        """Cut the run off for a shutdown, if the pool can; its message comes again."""
        try:
            super().cancel(pool, signal, emit_retry)
        except NotImplementedError:
            log.warning("task.not_cancelled", task_id=self.id, reason="this pool cannot end a running task")

    def settle(self, outcome: Outcome) -> None:
        """Hand the outcome to settlement. Any later end of the same delivery is ignored."""
        state.task_ready(self, successful=isinstance(outcome, Succeeded))
        # Not by the channel: it may be closed by now, and the message is held all the same.
        lease = self.runtime.intake.finish(self.message.delivery_tag)
        if lease is not None:
            end_span(self._span, outcome)
            self.runtime.settle(Work(lease=lease, outcome=outcome, request=self, span=self._span))


def request_class(runtime: WorkerRuntime) -> type[Request]:
    """Return the class of the requests of a worker."""
    return type("Request", (Request,), {"runtime": runtime})


def _info_of(error: BaseException) -> ExceptionInfo:
    try:
        raise error
    except BaseException:  # noqa: BLE001 - what ended a child may be a SystemExit
        return ExceptionInfo()


def _stopping() -> bool:
    """Whether the worker was told to stop: the end of a child then says nothing about its task."""
    # Set to the exit code, which is 0 in most cases.
    return any(flag is not None and flag is not False for flag in (state.should_stop, state.should_terminate))
