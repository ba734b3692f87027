"""Runs one task in a child, in a pool thread, or inline, and returns its ``Outcome`` whatever happens."""

import time
from collections.abc import Iterator
from traceback import walk_tb
from typing import Any

from billiard.common import terminate_handler_fired
from celery import Task, states
from celery.app.trace import trace_task
from celery.exceptions import Reject, WorkerShutdown, WorkerTerminate
from celery.exceptions import Retry as CeleryRetry
from kombu.serialization import loads

from pipeline.clock import boottime
from pipeline.errors import ServiceUnavailableError
from pipeline.taskmessage import data_of
from pipeline.telemetry import tracing
from pipeline.worker.outcome import Discarded, Outcome, Returned, Succeeded, failed
from pipeline.worker.runoptions import RunOptions, running_options
from pipeline.worker.stagetask import StageTask

#: The most of a result that a task event carries to Flower.
SUMMARY_BYTES = 1_000

ACCEPT = frozenset({"application/json"})


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
    try:
        if options.mark is not None:
            current_app.job_store.add_attempt(task_id, *options.mark)
        task = current_app.tasks[name]
        args, kwargs, embed = _arguments(task, body, content_type, content_encoding)
        request.update(embed, args=args, kwargs=kwargs, is_eager=False)
        with tracing.within(options.traceparent):
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
    if info is None:
        result = value if isinstance(task, StageTask) else None
        shown = (summary or "").encode()[:SUMMARY_BYTES].decode(errors="ignore")
        return Succeeded(result=result, summary=shown, seconds=seconds or 0.0)
    if terminate_handler_fired():
        raise SystemExit  # as above; what it raised then came of that
    seconds = time.monotonic() - started
    if isinstance(task, StageTask):
        return failed(info.retval, seconds)
    if info.state == states.FAILURE and _retried_in_vain(task, request.get("retries") or 0, info.retval):
        return failed(info.retval, seconds, permanent=True)
    return _unsuccessful(info.state, info.retval, seconds)


def _arguments(
    task: Any, body: Any, content_type: str, content_encoding: str
) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    if isinstance(task, StageTask):
        # As it came: kombu's decoder would change data that looks like one of its own types.
        return (data_of(body),), {}, {}
    args, kwargs, embed = loads(body, content_type, content_encoding, accept=ACCEPT)
    return args, kwargs, embed or {}


def _unsuccessful(state: str, error: BaseException, seconds: float) -> Outcome:
    """Of a plain task. A job counts a stage's tasks, so those never just end."""
    if state == states.IGNORED:
        return Discarded(reason="ignored")
    if state == states.RETRY and isinstance(error, CeleryRetry):
        return Discarded(reason="retried by its own publish")
    if isinstance(error, Reject):
        # Celery rejects so when the publish of a retry failed; behind kombu's error is the queue's.
        said = getattr(error.reason, "__cause__", None) or error.reason
        passing = error.requeue or isinstance(said, ServiceUnavailableError)
        return failed(error, seconds, permanent=not passing)
    return failed(error, seconds)


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
