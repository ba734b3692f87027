"""The run of one task, in a child, a pool thread or inline, which always returns an ``Outcome``."""

import inspect
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from traceback import walk_tb
from typing import Any

import structlog
from billiard.common import terminate_handler_fired
from billiard.einfo import ExceptionInfo
from celery import Task, states
from celery.app.trace import trace_task
from celery.exceptions import Reject, WorkerShutdown, WorkerTerminate
from celery.exceptions import Retry as CeleryRetry
from celery.signals import task_failure
from kombu.serialization import loads

from pipeline.clock import boottime
from pipeline.errors import PermanentError, ServiceUnavailableError
from pipeline.payloads import Payloads
from pipeline.results.report import reporting
from pipeline.telemetry import tracing
from pipeline.telemetry.fields import trace_id
from pipeline.wire.redaction import redact
from pipeline.wire.references import REFERENCE_TYPE, ReferencedBody
from pipeline.wire.taskmessage import data_of
from pipeline.worker.child.outcome import (
    IGNORED,
    Discarded,
    Failed,
    Outcome,
    Returned,
    Succeeded,
    failed,
)
from pipeline.worker.child.runoptions import RunOptions, emitted_entity, running_options
from pipeline.worker.child.stagetask import StageTask

#: The share of its time limit that a run waits for its data, where S3 is away: the rest is for the run, and
#: for the failure to be told before the child is killed.
WAIT_SHARE = 0.8
#: The same (seconds) in pools without limits.
LONGEST_WAIT = 240.0

#: The most bytes of a result that a task event carries to Flower.
SUMMARY_BYTES = 1_000

#: Why a task that returned a coroutine or a generator failed.
NOT_RUN = (
    "returned a coroutine or generator, whose code has not run: make it an async function, or a plain one "
    "that runs the loop itself."
)

#: The message of the ``Ignore`` that ``Task.replace`` raises.
REPLACED = "Replaced by new task"

#: The content type and encoding of the bodies of plain tasks.
CONTENT = ("application/json", "utf-8")
ACCEPT = frozenset(CONTENT[:1])


def run(
    name: str,
    task_id: str,
    request: dict[str, Any],
    body: Any,
    content_type: str,
    content_encoding: str,
    options: RunOptions,
) -> Outcome:
    """Run the task ``name`` of the current app as Celery's own tracer does: signals, links, chains.

    Celery's pools lose a task whose code raises SystemExit or MemoryError, and some end the worker with
    it; here they are failures of the task like any other.
    """
    from celery import current_app

    started = time.monotonic()
    if boottime() > options.start_before:
        return Returned()
    token = running_options.set(options)
    emitted_entity.set(None)
    context: Mapping[str, Any] = {}
    try:
        if options.mark is not None:
            current_app.pipeline.job_store.attempts.add(task_id, *options.mark)
        task = current_app.tasks[name]
        if not isinstance(task, StageTask):
            # A stage's lines get the fields of its job (``add_current_task``).
            context = structlog.contextvars.bind_contextvars(**_log_fields(name, task_id, options))
        if content_type == REFERENCE_TYPE:
            args, kwargs, embed = _fetched(current_app.pipeline.payloads, task, body, options)
        else:
            args, kwargs, embed = _arguments(task, body, content_type, content_encoding)
        request.update(embed, args=args, kwargs=kwargs, is_eager=False)
        with tracing.within(options.traceparent), reporting(task_id) as running:
            value, info, seconds, summary = trace_task(
                task, task_id, args, kwargs, request, app=current_app._get_current_object()
            )
    except (WorkerShutdown, WorkerTerminate):
        raise
    except BaseException as error:
        if terminate_handler_fired():
            raise  # the task did not end: its process was told to
        return failed(error, time.monotonic() - started)
    finally:
        running_options.reset(token)
        structlog.contextvars.reset_contextvars(**context)
    if info is None and _is_lazy(value):
        return failed(PermanentError(f"The task {name} {NOT_RUN}"), time.monotonic() - started)
    if info is None:
        result = value if isinstance(task, StageTask) else None
        shown = redact(summary or "").encode()[:SUMMARY_BYTES].decode(errors="ignore")
        return Succeeded(
            result=result,
            entity=emitted_entity.get(),
            summary=shown,
            seconds=seconds or 0.0,
            report=running.told(states.SUCCESS),
        )
    if terminate_handler_fired():
        raise SystemExit  # as above; what it raised then came of that
    seconds = time.monotonic() - started
    if isinstance(task, StageTask):
        return failed(info.retval, seconds)
    if info.state == states.FAILURE and _retried_in_vain(task, request.get("retries") or 0, info.retval):
        outcome: Outcome = failed(info.retval, seconds, permanent=True)
    else:
        outcome = _unsuccessful(info.state, info.retval, seconds)
    if isinstance(outcome, Failed) and outcome.rejected:
        _send_task_failure(task, task_id, args, kwargs, info.retval)
    if isinstance(outcome, Failed | Discarded) and (report := running.told(info.state)) is not None:
        return replace(outcome, report=report)
    return outcome


def _log_fields(name: str, task_id: str, options: RunOptions) -> dict[str, Any]:
    fields = {"task": name, "task_id": task_id, "attempt": options.attempt}
    return fields | ({"trace_id": trace_id(options.traceparent)} if options.traceparent else {})


def _is_lazy(value: Any) -> bool:
    """Whether a task returned a coroutine or generator, whose code has not run."""
    if inspect.iscoroutine(value):
        value.close()  # else Python warns that it was never awaited
        return True
    return inspect.isgenerator(value) or inspect.isasyncgen(value)


def _arguments(
    task: Any, body: Any, content_type: str, content_encoding: str
) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    if isinstance(task, StageTask):
        # As it came: kombu's decoder would change data that looks like one of its own types.
        return (data_of(body),), {}, {}
    args, kwargs, embed = loads(body, content_type, content_encoding, accept=ACCEPT)
    return args, kwargs, embed or {}


def _fetched(
    payloads: Payloads, task: Any, body: str | bytes, options: RunOptions
) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """Return the arguments of a task whose data is on S3; waits for S3 within the run's time limit."""
    reference = ReferencedBody.read(body).reference
    within = LONGEST_WAIT if options.limit is None else WAIT_SHARE * options.limit
    kept = payloads.wait_for(reference, within).decode()
    if isinstance(task, StageTask):
        return (kept, reference), {}, {}
    return _arguments(task, kept, *CONTENT)


def _unsuccessful(state: str, error: BaseException, seconds: float) -> Outcome:
    """Return the outcome of a plain task. A stage's task never just ends: its job counts it."""
    if state == states.IGNORED:
        is_replaced = str(error) == REPLACED
        return Discarded(reason="replaced" if is_replaced else IGNORED, lives_on=is_replaced)
    if state == states.RETRY and isinstance(error, CeleryRetry):
        return Discarded(reason="retried by its own publish", lives_on=True)
    if isinstance(error, Reject):
        return _rejected(error, seconds)
    return failed(error, seconds)


def _rejected(error: Reject, seconds: float) -> Outcome:
    # Celery itself rejects so when the publish of a retry failed; behind kombu's error is the queue's.
    said = getattr(error.reason, "__cause__", None) or error.reason
    if isinstance(said, ServiceUnavailableError):
        return failed(error, seconds, permanent=False)
    if error.requeue:
        return Returned(rejected=True)
    return replace(failed(error, seconds, permanent=True), rejected=True)


def _send_task_failure(task: Any, task_id: str, args: Any, kwargs: Any, error: BaseException) -> None:
    """Send the signal of a task that rejected its message for good, as Celery does in the parent."""
    try:
        raise error
    except type(error):
        info = ExceptionInfo()
    task_failure.send(
        sender=task,
        task_id=task_id,
        exception=error,
        args=args,
        kwargs=kwargs,
        traceback=info.traceback,
        einfo=info,
    )


def _retried_in_vain(task: Any, retries: int, error: BaseException) -> bool:
    """Whether the task asked for more of Celery's retries (``retry``, ``autoretry_for``) than it has.

    Celery then raises the task's own exception, or another comes of it: only where it passed tells.
    """
    # Celery's place for what this run gave ``retry(max_retries=...)``.
    most = getattr(task, "override_max_retries", task.max_retries)
    # A task that is called as a function passes there too.
    return most is not None and retries >= most and any(map(_passed_retry, _with_what_led_to(error)))


def _passed_retry(error: BaseException) -> bool:
    return any(frame.f_code is Task.retry.__code__ for frame, _ in walk_tb(error.__traceback__))


def _with_what_led_to(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__context__ if error.__cause__ is None else error.__cause__
