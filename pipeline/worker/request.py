"""The worker's request: every way a task can end leads to settlement, once."""

from collections.abc import Container
from typing import Any, ClassVar
from weakref import ref

import structlog
from billiard.einfo import ExceptionInfo, ExceptionWithTraceback
from celery.exceptions import TaskRevokedError, Terminated, TimeLimitExceeded
from celery.signals import task_revoked
from celery.worker import request as base
from celery.worker import state

from pipeline.taskmessage import HEADER, TaskHeader
from pipeline.telemetry import metrics
from pipeline.telemetry.fields import header_fields
from pipeline.telemetry.tracing import Span
from pipeline.transport.lease import Lease
from pipeline.worker import trace
from pipeline.worker.outcome import Cancelled, Discarded, Failed, Outcome, Returned, Succeeded, failed
from pipeline.worker.runoptions import RunOptions
from pipeline.worker.settlement import Settlement
from pipeline.worker.spans import end_span, start_span
from pipeline.worker.work import Work

log = structlog.get_logger(__name__)

#: Seconds that the pool may need to kill a run at its hard limit.
KILL_GRACE = 30.0
#: The longest run (seconds): SQS holds a message for 12 hours, and it may have waited for some of them.
LONGEST_RUN = 11 * 3600.0


class Request(base.Request):  # type: ignore[misc]
    """A task message on its way through the pool.

    Celery deletes the message on revoke, on a hard limit, when a child is killed, on ``Reject`` and on
    ``Ignore``. Here ``acknowledge`` does nothing, and what ended the task decides in settlement what
    becomes of the message.
    """

    #: set by the worker's settlement step, as are the next two
    settlement: ClassVar[Settlement]
    #: the ids of jobs of which nothing is started any more
    cancelled_jobs: ClassVar[Container[str]] = ()
    #: whether the pool ends a run at its limits
    pool_kills: ClassVar[bool] = True
    _already_revoked = False
    _failed_before = 0
    _span: Span | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        # celery.worker.request.create_request_cls subclasses this class for speed, with versions of these
        # two that trace and acknowledge in Celery's way.
        super().__init_subclass__(**kwargs)
        for name in ("execute_using_pool", "on_success"):
            if name in cls.__dict__:
                delattr(cls, name)

    def execute_using_pool(self, pool: Any, **kwargs: Any) -> Any:
        """Give the task to the pool, unless it was revoked or is not ours for as long as it may run."""
        if self.revoked():
            raise TaskRevokedError(self.id)
        lease = self.settlement.intake.delivered(self.message.delivery_tag)
        if lease is not None and lease.header is not None and lease.header.job_id in self.cancelled_jobs:
            self.skip(lease.header)
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
                self._start(lease, limit),
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
        """The hard and the soft limit of the run in seconds; None for none, as in pools that have none."""
        if not self.pool_kills:
            return None, None
        hard, soft = self.time_limits
        # A remote control command may take the task's own limit away; there is always one.
        hard = hard or self.task.time_limit or self.app.conf.task_time_limit
        return min(hard, LONGEST_RUN), soft or self.task.soft_time_limit

    def _start(self, lease: Lease, limit: float | None) -> RunOptions:
        # Not after the lease as it is now: this process may be frozen between here and the child's start, and
        # the message be run elsewhere meanwhile. A child that is slow to come up gives it back unharmed.
        start_before = lease.start_by
        over_by = lease.last_end if limit is None else start_before + limit + KILL_GRACE
        self.settlement.intake.started(lease, over_by)
        self._failed_before = lease.attempts
        return RunOptions(
            attempt=lease.attempts + 1,
            limit=limit,
            start_before=start_before,
            mark=(lease.message_id, lease.message.receive_count) if lease.suspect else None,
            traceparent=self._span.traceparent if self._span else None,
        )

    def send_event(self, type: str, **fields: Any) -> None:
        """Send a task event, with the task's name: who reads it may not have read of it before.

        The start of a run says how many runs failed before it.
        """
        fields.setdefault("name", self.name)
        if type == "task-started":
            fields["retries"] = self._failed_before
        super().send_event(type, **fields)

    # ─── Ends ───

    def skip(self, header: TaskHeader) -> None:
        """Its job is cancelled: it ends without a run."""
        log.info("task.cancelled", task_id=self.id, **header_fields(header, None))
        self.send_event("task-revoked", terminated=False, signum=None, expired=False)
        self.settle(Cancelled())

    def on_success(self, outcome: Outcome, **kwargs: Any) -> None:
        """The child answered; the task itself may have failed."""
        if isinstance(outcome, Outcome):
            self.settle(outcome)
        else:  # what the threads pool makes of an exit
            self.on_failure(outcome)

    def on_failure(
        self, exc_info: ExceptionInfo, send_failed_event: bool = True, return_ok: bool = False
    ) -> None:
        """The child did not answer: it was killed, or ended by itself."""
        error = exc_info.exception
        if isinstance(error, ExceptionWithTraceback):
            error = error.exc
        if isinstance(error, Terminated) and not self._already_cancelled:
            self._announce_revoked("terminated", True, str(error), False)
        elif self._already_cancelled or _stopping():
            self.settle(Returned())
        else:
            self.settle(failed(error))

    def on_timeout(self, soft: bool, timeout: float) -> None:
        """The pool raised the soft limit in the child, or killed it at the hard one."""
        if soft:
            log.warning("task.soft_time_limit", task=self.name, task_id=self.id, seconds=timeout)
        elif _stopping():
            self.settle(Returned())
        else:
            self.settle(failed(TimeLimitExceeded(timeout)))

    def acknowledge(self) -> None:
        """Nothing: only settlement deletes a message."""

    def reject(self, requeue: bool = False) -> None:
        """Celery could not take it, for example for an eta it cannot read."""
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
            self.settle(Discarded(reason=reason))
        else:
            # A job counts its tasks: one that will never run is a failure a person can see and redrive.
            self.settle(Failed(error="celery.exceptions.TaskRevokedError", message=reason, permanent=True))

    def terminate(self, pool: Any, signal: Any = None) -> None:
        """Kill the run, where the pool can."""
        try:
            super().terminate(pool, signal)
        except NotImplementedError:
            log.warning("task.not_terminated", task_id=self.id, reason="this pool cannot end a running task")

    def cancel(self, pool: Any, signal: Any = None, emit_retry: bool = True) -> None:
        """Cut the run off for a shutdown, where the pool can; its message comes again."""
        try:
            super().cancel(pool, signal, emit_retry)
        except NotImplementedError:
            log.warning("task.not_cancelled", task_id=self.id, reason="this pool cannot end a running task")

    def settle(self, outcome: Outcome) -> None:
        """Hand the outcome to settlement; any later end of the same delivery is not heard."""
        state.task_ready(self, successful=isinstance(outcome, Succeeded))
        # Not by the channel: it may be closed by now, and the message is held all the same.
        lease = self.settlement.intake.finish(self.message.delivery_tag)
        if lease is not None:
            end_span(self._span, outcome)
            self.settlement.submit(Work(lease=lease, outcome=outcome, request=self, span=self._span))


def _stopping() -> bool:
    """Whether the worker was told to stop: what ends a child then says nothing about its task."""
    # Set to the exit code, which is 0 in most cases.
    return any(flag is not None and flag is not False for flag in (state.should_stop, state.should_terminate))
