"""The Celery app that ``celery -A pipeline`` finds."""

import gc
from functools import cached_property
from typing import Any, cast

from celery import Celery, current_task
from celery.result import AsyncResult
from celery.signals import (
    after_setup_logger,
    after_setup_task_logger,
    before_task_publish,
    worker_before_create_process,
    worker_process_shutdown,
)

from pipeline.control.transport import configure
from pipeline.errors import PipelineError
from pipeline.jobs import JobStore
from pipeline.payloads import Payloads
from pipeline.results.asyncresult import TaskResult
from pipeline.settings import Settings, load_settings
from pipeline.telemetry import logs, tracing
from pipeline.transport.publishing import is_for_later
from pipeline.vault import environment
from pipeline.wire.taskmessage import GROUP_HEADER, TRACEPARENT
from pipeline.worker import errbacks
from pipeline.worker.bootsteps import Health, Preflight, Runtime, Settling
from pipeline.worker.celerychecks import start_refused
from pipeline.worker.child.runoptions import running_options


class PipelineApp(Celery):  # type: ignore[misc]
    """A Celery app over ``fifo://``. The environment is read only when a setting is needed."""

    control_cls = "pipeline.control.mailbox:Control"
    events_cls = "pipeline.worker.dispatcher:Events"

    @cached_property
    def settings(self) -> Settings:
        """Return the settings of this process. Invalid ones, or an error of Vault, end it with one line."""
        try:
            return load_settings(environment())
        except PipelineError as error:
            raise start_refused(error) from error

    @cached_property
    def AsyncResult(self) -> type[AsyncResult]:  # noqa: N802 - Celery's name
        """Return the class of what ``delay`` and ``apply_async`` return."""
        return cast(type[AsyncResult], self.subclass_with_self(TaskResult))

    @cached_property
    def job_store(self) -> JobStore:
        """Return the job store of this process and of those it forks."""
        return JobStore(self.settings)

    @cached_property
    def payloads(self) -> Payloads:
        """Return the payloads on S3 of this process and of those it forks."""
        return Payloads(self.settings)


def celery_configuration(settings: Settings) -> dict[str, Any]:
    """Return Celery's settings that the promises of this project depend on."""
    configure(settings)
    return {
        "broker_url": "fifo://",
        "broker_connection_retry_on_startup": True,
        "accept_content": ["json"],
        "task_default_queue": settings.task_queue,
        "task_ignore_result": not settings.results,
        # The default deletes a message when its run starts; here settlement deletes it at its end.
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        # A lease is extended for as long as a run may last, so there must be an end to that.
        "task_time_limit": settings.task_time_limit,
        # The intake adapts to the speed of the tasks; Celery takes only what it runs at once.
        "worker_prefetch_multiplier": 1,
        "worker_consumer": "pipeline.worker.consumer:Consumer",
        # A child that imports slowly would be killed and started again for ever at the default of 4 s.
        "worker_proc_alive_timeout": 60.0,
        # Running tasks keep their lease through a reconnect.
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        # The control plane is carried by Kafka.
        "worker_enable_remote_control": settings.kafka_enabled,
        # Always, so that a Flower started later finds what happened before in the log.
        "worker_send_task_events": settings.kafka_enabled,
    }


def make_app() -> PipelineApp:
    """Return an app with this project's transport, loader, backend and steps."""
    made = PipelineApp(
        "pipeline",
        loader="pipeline.worker.loader:Loader",
        backend="pipeline.results.backend:Backend",
    )
    made.add_defaults(lambda: celery_configuration(made.settings))
    errbacks.register(made)
    made.steps["worker"].update({Preflight, Runtime, Health})
    made.steps["consumer"].add(Settling)
    return made


app = make_app()

logs.configure()
after_setup_logger.connect(logs.format_celery)
after_setup_task_logger.connect(logs.format_celery)


@before_task_publish.connect  # type: ignore[untyped-decorator]
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


@before_task_publish.connect  # type: ignore[untyped-decorator]
def _keep_trace(headers: dict[str, Any] | None = None, **_: Any) -> None:
    """Add what a task publishes to the task's trace."""
    options = running_options.get(None)
    if options is not None and options.traceparent and headers is not None:
        headers[TRACEPARENT] = options.traceparent


@worker_before_create_process.connect  # type: ignore[untyped-decorator]
def _spare_collection(**_: Any) -> None:
    """Hide all objects from the garbage collection that Celery makes before it forks each child.

    Measured with one child a task: the collection was most of the event loop's time, 0.1 to 0.4 s a fork. The
    Kafka door unfreezes them after the fork (``pipeline.kafka.producer``), so that none is kept for ever.
    """
    gc.freeze()


@worker_process_shutdown.connect  # type: ignore[untyped-decorator]
def _send_spans(**_: Any) -> None:
    """Send the spans that a task's own code made in a child."""
    tracing.stop()
