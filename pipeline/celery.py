"""The Celery app that ``celery -A pipeline`` finds."""

from functools import cached_property
from typing import Any

from celery import Celery, current_task
from celery.signals import (
    after_setup_logger,
    after_setup_task_logger,
    before_task_publish,
    worker_process_shutdown,
)

from config.settings import Settings, load_settings
from config.vault import environment
from pipeline.errors import PipelineError
from pipeline.jobs import JobStore
from pipeline.taskmessage import TRACEPARENT
from pipeline.telemetry import logs, tracing
from pipeline.transport import fifo
from pipeline.worker import errbacks
from pipeline.worker.healthstep import Health
from pipeline.worker.refused import start_refused
from pipeline.worker.runoptions import running_options
from pipeline.worker.steps import Preflight, Settling


class PipelineApp(Celery):  # type: ignore[misc]
    """Celery over ``fifo://``. Nothing is read from the environment before it is asked for."""

    @cached_property
    def settings(self) -> Settings:
        """The settings of this process. What is wrong with them, or with Vault, ends it with one message."""
        try:
            return load_settings(environment())
        except PipelineError as error:
            raise start_refused(error) from error

    @cached_property
    def job_store(self) -> JobStore:
        """The job store of this process and of those it forks."""
        return JobStore(self.settings)


def celery_configuration(settings: Settings) -> dict[str, Any]:
    """Celery's settings that the promises of this project depend on."""
    fifo.configure(settings)
    return {
        "broker_url": "fifo://",
        "broker_connection_retry_on_startup": True,
        "accept_content": ["json"],
        "task_default_queue": settings.task_queue,
        "task_ignore_result": True,
        # The default deletes a message when its run starts; here settlement deletes it at its end.
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        # A lease is extended for as long as a run may last, so there must be an end to that.
        "task_time_limit": settings.task_time_limit,
        # What is held adapts to the pace; the worker itself takes only what it runs at once.
        "worker_prefetch_multiplier": 1,
        "worker_consumer": "pipeline.worker.consumer:Consumer",
        # A child that imports slowly would be killed and started again for ever at the default of 4 s.
        "worker_proc_alive_timeout": 60.0,
        # What runs keeps its lease through a reconnect.
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        # The control plane is carried by Kafka.
        "worker_enable_remote_control": settings.kafka_enabled,
        # Always, so that a Flower started later finds what happened before in the log.
        "worker_send_task_events": settings.kafka_enabled,
    }


def make_app() -> PipelineApp:
    """An app with this project's transport, loader, backend and steps."""
    made = PipelineApp(
        "pipeline",
        loader="pipeline.worker.loader:Loader",
        backend="pipeline.worker.errbacks:Backend",
    )
    made.add_defaults(lambda: celery_configuration(made.settings))
    errbacks.register(made)
    made.steps["worker"].add(Preflight)
    made.steps["worker"].add(Health)
    made.steps["consumer"].add(Settling)
    return made


app = make_app()

logs.configure()
after_setup_logger.connect(logs.format_celery)
after_setup_task_logger.connect(logs.format_celery)


@before_task_publish.connect  # type: ignore[untyped-decorator]
def _keep_group(headers: dict[str, Any] | None = None, **_: Any) -> None:
    """What a task publishes (a chain's next, a retry) stays in its message group unless told otherwise.

    But not another task for later: until then SQS would give nothing of the group.
    """
    group = current_task.request.get(fifo.GROUP_HEADER) if current_task else None
    if not group or headers is None:
        return
    is_retry = headers.get("id") == current_task.request.id
    if is_retry or not fifo.is_for_later(headers.get("eta")):
        headers.setdefault(fifo.GROUP_HEADER, group)


@before_task_publish.connect  # type: ignore[untyped-decorator]
def _keep_trace(headers: dict[str, Any] | None = None, **_: Any) -> None:
    """What a task publishes belongs to its trace."""
    options = running_options.get(None)
    if options is not None and options.traceparent and headers is not None:
        headers[TRACEPARENT] = options.traceparent


@worker_process_shutdown.connect  # type: ignore[untyped-decorator]
def _send_spans(**_: Any) -> None:
    """Those that a task's own code made in a child."""
    tracing.stop()
