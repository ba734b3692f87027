"""Runs one task in a child, in a pool thread, or inline, and returns its ``Outcome`` whatever happens."""

import time
from typing import Any

from celery import states
from celery.app.trace import trace_task
from celery.exceptions import Reject, WorkerShutdown, WorkerTerminate
from celery.exceptions import Retry as CeleryRetry
from kombu.serialization import loads

from pipeline.taskmessage import data_of
from pipeline.worker.outcome import Discarded, Outcome, Succeeded, failed
from pipeline.worker.stagetask import StageTask

ACCEPT = frozenset({"application/json"})


def run(
    name: str, task_id: str, request: dict[str, Any], body: Any, content_type: str, content_encoding: str
) -> Outcome:
    """Run the task ``name`` of the current app as Celery's own tracer does: signals, links, chains.

    Celery's pools lose a task whose code raises SystemExit or MemoryError, and some end the worker with
    it; here they are failures of the task like any other.
    """
    from celery import current_app

    started = time.monotonic()
    try:
        task = current_app.tasks[name]
        args, kwargs, embed = _arguments(task, body, content_type, content_encoding)
        request.update(embed, args=args, kwargs=kwargs, is_eager=False)
        value, info, seconds, summary = trace_task(
            task, task_id, args, kwargs, request, app=current_app._get_current_object()
        )
    except (WorkerShutdown, WorkerTerminate):
        raise
    except BaseException as error:  # noqa: BLE001 - a task may raise anything, and each is its failure
        return failed(error, time.monotonic() - started)
    if info is None:
        result = value if isinstance(task, StageTask) else None
        return Succeeded(result=result, summary=summary or "", seconds=seconds or 0.0)
    return _unsuccessful(info.state, info.retval, time.monotonic() - started)


def _arguments(
    task: Any, body: Any, content_type: str, content_encoding: str
) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    if isinstance(task, StageTask):
        # As it came: kombu's decoder would change data that looks like one of its own types.
        return (data_of(body),), {}, {}
    args, kwargs, embed = loads(body, content_type, content_encoding, accept=ACCEPT)
    return args, kwargs, embed or {}


def _unsuccessful(state: str, error: BaseException, seconds: float) -> Outcome:
    if state == states.IGNORED:
        return Discarded(reason="ignored")
    if state == states.RETRY and isinstance(error, CeleryRetry):
        return Discarded(reason="retried by its own publish")
    if isinstance(error, Reject):
        return failed(error, seconds, permanent=not error.requeue)
    return failed(error, seconds)
