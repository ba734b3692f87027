"""Fields of the log lines about a task: entity_id, stage, part, job_id, task_id, attempt, topic, partition,
offset, trace_id, and duration_ms of a run that has ended.
"""

from collections.abc import Mapping
from typing import Any

from structlog.types import EventDict

from pipeline.author.context import CurrentTask, current_task
from pipeline.wire.taskmessage import TaskHeader


def add_current_task(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """Add the fields of the running task to a line that its function writes (a structlog processor).

    The task is looked up when a line is written, so that a task that writes none pays nothing.
    """
    task = current_task()
    if task is None:
        return event
    for name, value in _fields_of(task).items():
        event.setdefault(name, value)
    return event


def _fields_of(task: CurrentTask) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "entity_id": task.entity_id,
        "stage": task.stage,
        "job_id": task.job_id,
        "task_id": task.task_id,
        "attempt": task.attempt,
        "topic": task.topic,
        "partition": task.partition,
        "offset": task.offset,
    }
    if task.part is not None:
        fields["part"] = f"{task.part.ordinal}/{task.part.total}"
    if task.traceparent is not None:
        fields["trace_id"] = trace_id(task.traceparent)
    return fields


def header_fields(header: TaskHeader | None, traceparent: str | None = None) -> dict[str, Any]:
    """Return the fields of a task by its header; {} for a plain task."""
    if header is None:
        return {}
    fields: dict[str, Any] = {
        "entity_id": header.entity_id,
        "stage": header.stage,
        "job_id": header.job_id,
        "topic": header.topic,
        "partition": header.partition,
        "offset": header.offset,
    }
    if header.part is not None:
        fields["part"] = f"{header.part.ordinal}/{header.part.total}"
    if traceparent is not None:
        fields["trace_id"] = trace_id(traceparent)
    return fields


def task_fields(
    headers: Mapping[str, Any], header: TaskHeader | None, traceparent: str | None
) -> dict[str, Any]:
    """Return the fields of a task by Celery's headers: those of its header, or a plain task's name."""
    if header is not None or "task" not in headers:
        return header_fields(header, traceparent)
    return {"task": headers["task"]} | ({"trace_id": trace_id(traceparent)} if traceparent else {})


def trace_id(traceparent: str) -> str:
    """Return the trace id of a W3C traceparent (version-trace-span-flags)."""
    return traceparent.split("-")[1] if traceparent.count("-") >= 3 else traceparent
