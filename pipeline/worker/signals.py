"""Receivers of Celery's signals, connected once a process: they serve every app of it."""

import gc
from typing import Any

import structlog
from celery import current_task
from celery.signals import (
    after_setup_logger,
    after_setup_task_logger,
    beat_embedded_init,
    beat_init,
    before_task_publish,
    worker_before_create_process,
    worker_process_shutdown,
)

from pipeline.telemetry import logs, tracing
from pipeline.transport.publishing import is_for_later
from pipeline.wire.taskmessage import GROUP_HEADER, TRACEPARENT
from pipeline.worker.beatguard import refuse_second_beat
from pipeline.worker.child.runoptions import running_options


def connect() -> None:
    """Connect the receivers, and send the project's log lines to the standard library.

    Connected again they are the same receivers. An application that has configured structlog keeps its
    configuration, and one with a receiver of ``setup_logging`` its handlers.
    """
    if not structlog.is_configured():
        logs.configure()
    after_setup_logger.connect(logs.format_celery)
    after_setup_task_logger.connect(logs.format_celery)
    before_task_publish.connect(_keep_group)
    before_task_publish.connect(_keep_trace)
    worker_before_create_process.connect(_spare_collection)
    worker_process_shutdown.connect(_send_spans)
    beat_init.connect(refuse_second_beat)
    beat_embedded_init.connect(refuse_second_beat)


def _keep_group(headers: dict[str, Any] | None = None, **_: Any) -> None:
    """Keep what a task publishes (a chain's next, a retry) in its message group, unless it has its own.

    But not another task for later: until then SQS would give nothing of the group.
    """
    group = current_task.request.get(GROUP_HEADER) if current_task else None
    if not group or headers is None:
        return
    is_retry = headers.get("id") == current_task.request.id
    if is_retry or not is_for_later(headers.get("eta")):
        headers.setdefault(GROUP_HEADER, group)


def _keep_trace(headers: dict[str, Any] | None = None, **_: Any) -> None:
    """Add what a task publishes to the task's trace."""
    options = running_options.get(None)
    if options is not None and options.traceparent and headers is not None:
        headers[TRACEPARENT] = options.traceparent


def _spare_collection(**_: Any) -> None:
    """Hide all objects from the garbage collection that Celery makes before it forks each child.

    Measured with one child a task: the collection was most of the event loop's time, 0.1 to 0.4 s a fork. The
    Kafka door unfreezes them after the fork (``pipeline.kafka.producer``), so that none is kept for ever.
    """
    gc.freeze()


def _send_spans(**_: Any) -> None:
    """Send the spans that a task's own code made in a child."""
    tracing.stop()
