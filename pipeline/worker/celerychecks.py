"""Checks before one of Celery's commands starts, and the errors with which it refuses to."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import click
import structlog

from pipeline.author.registry import Registry
from pipeline.errors import ConfigurationError, PipelineError, ServiceError
from pipeline.loopback import is_loopback
from pipeline.settings import Settings
from pipeline.telemetry.terminal import clean

log = structlog.get_logger(__name__)

#: Pools that cannot end a running task: a time limit would be ignored there.
LIMITLESS_POOLS = ("solo", "thread")
#: Open files of a worker: connections to Kafka, SQS and DynamoDB under load, then those of each pool process
#: and of each queue. Measured: 43 with one process, 85 with eight, and up to 30 more connections under load.
OPEN_FILES, FILES_PER_PROCESS, FILES_PER_QUEUE = 70, 8, 4
#: Those of a health server that is flooded: its connections, and what it accepts before it drops others.
HEALTH_FILES = 100
#: The strategy of every task whose author did not set another.
CELERYS_STRATEGY = "celery.worker.strategy:default"


class StartRefused(click.ClickException):
    """The process does not start until something is changed; one line says why and what mends it."""

    exit_code = 2

    def format_message(self) -> str:
        """Return the line, which may quote a setting or a service, as a terminal may show it."""
        return clean(self.message)


class StartRefusedByService(StartRefused):
    """A service did not answer, or refused: another start may help."""

    exit_code = 1


def start_refused(error: PipelineError) -> StartRefused:
    """Return the exception to raise where this error keeps a process from starting."""
    return (StartRefusedByService if isinstance(error, ServiceError) else StartRefused)(str(error))


def pool_name(pool: Any) -> str:
    """Return prefork, solo, thread, gevent or eventlet: the end of the module of a pool or its class."""
    return str(pool.__module__).rsplit(".", 1)[1]


def check_pool(pool: str, registry: Registry) -> None:
    """Raise ``ConfigurationError`` for a pool that would lose tasks, or ignore the limits of a stage."""
    if pool in ("gevent", "eventlet"):
        raise ConfigurationError(
            f"The pool {pool} has no event loop of Celery's, and Kafka's client would block all its tasks. "
            "Use --pool prefork (the default), threads or solo."
        )
    limited = [s.name for s in registry.by_name.values() if s.time_limit or s.soft_time_limit]
    if limited and pool in LIMITLESS_POOLS:
        raise ConfigurationError(
            f"The pool {pool} cannot end a running task, but {', '.join(limited)} set a time limit. "
            "Use --pool prefork, or remove the limits."
        )


def check_open_files(limit: int, processes: int, queues: int, *, serves_health: bool) -> None:
    """Raise ``ConfigurationError`` where the process may open fewer files than its pool and clients need.

    Beyond the limit clients cannot connect and children cannot be forked, and the worker looks alive.
    """
    needed = OPEN_FILES + FILES_PER_PROCESS * processes + FILES_PER_QUEUE * queues
    needed += HEALTH_FILES if serves_health else 0
    if limit < needed:
        raise ConfigurationError(
            f"This process may have {limit} files open, and a worker with {processes} pool processes and "
            f"{queues} queues needs {needed}: raise the limit, for example with ulimit -n 1024, LimitNOFILE= "
            "of its systemd unit or ulimits of its container, or lower --concurrency."
        )


def check_tasks(tasks: Mapping[str, Any]) -> None:
    """Raise ``ConfigurationError`` for tasks that would never run, or hold their messages for ever."""
    wrong = [f"{name} {reason}" for name, task in sorted(tasks.items()) if (reason := _why_not(task))]
    if wrong:
        raise ConfigurationError("These tasks cannot run on this worker: " + "; ".join(wrong) + ".")


def _why_not(task: Any) -> str | None:
    function = inspect.unwrap(task.run)
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        return "is a generator, whose code would not be run: return a list, or run the loop in the task"
    if task.Strategy != CELERYS_STRATEGY:
        return (
            f"has a Strategy of its own ({task.Strategy}), which would keep messages past their leases: "
            "use a plain task"
        )
    return None


def report_queues(settings: Settings, registry: Registry, takes: Sequence[str]) -> None:
    """Log the queues of stages that this worker does not take from, and the option that would.

    It is a warning where the worker takes from the task queue alone, as it does without -Q: a stage with a
    queue of its own may then have no worker at all. A worker with -Q is one of several.
    """
    queues = {stage.queue or settings.task_queue for stage in registry.by_name.values()}
    taken = {settings.queue_url(name) for name in takes}
    not_taken = sorted(name for name in queues if settings.queue_url(name) not in taken)
    if not_taken and settings.use_sqs_task_processing:
        write = log.warning if taken == {settings.sqs_task_queue_url} else log.info
        mend = f"start a worker with -Q {','.join(not_taken)}"
        write("worker.queues", takes=list(takes), not_taken=not_taken, mend=mend)


def refuse_open_flower() -> None:
    """Raise ``StartRefused`` where this process is a Flower that asks nobody for a password.

    Whoever reaches it can stop workers and run tasks. Called when Flower loads the tasks: its options are
    read by then, and it does not listen yet.
    """
    context = click.get_current_context(silent=True)
    if context is None or context.info_name != "flower":
        return
    from tornado.options import options

    # An empty variable makes Flower's list of passwords one empty string.
    asks = any(options.basic_auth or ()) or options.auth
    if not (asks or options.unix_socket or is_loopback(options.address)):
        raise StartRefused(
            "Flower can stop workers and run tasks, and would ask nobody for a password. Set "
            "FLOWER_BASIC_AUTH=name:password or Flower's OAuth, or --address=127.0.0.1 for this machine only."
        )
