"""Structured logs: one JSON object a line, or readable lines on a terminal; the same for every logger.

Our own loggers, Celery's and those of user code end in the same formatter, so a log is one kind of line.
"""

import json
import logging
import sys
from typing import Any

import structlog
from structlog.types import Processor

from pipeline.telemetry.fields import add_current_task
from pipeline.telemetry.redaction import redact_event

#: Loggers of libraries that say at each start, as information, where they found credentials and endpoints.
_CHATTY = ("botocore", "boto3", "urllib3")

#: Celery's lines for each task received, done or failed hold its arguments and not its job: the worker's
#: parent writes one line instead when it settles the task.
_PER_TASK = {"celery.worker.strategy": logging.WARNING, "celery.app.trace": logging.CRITICAL}

#: What every line gets, whoever wrote it.
_SHARED: tuple[Processor, ...] = (
    structlog.contextvars.merge_contextvars,
    add_current_task,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
)


def configure() -> None:
    """Send structlog's loggers through the standard library's, where levels and handlers are set."""
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_SHARED,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def formatter(terminal: bool) -> logging.Formatter:
    """The formatter of a handler: readable for a terminal, JSON for everything else."""
    rendering = _console() if terminal else structlog.processors.JSONRenderer(default=repr)
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.ExtraAdder(), *_SHARED],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            redact_event,
            rendering,
        ],
    )


def readable(line: str) -> str:
    """A line that a process logged as JSON, as a terminal has it, without its time; any other as it is."""
    try:
        event = json.loads(line)
    except ValueError:
        return line
    if not isinstance(event, dict) or not isinstance(event.get("event"), str):
        return line
    event.pop("timestamp", None)
    return str(_console()(None, "", event))


def _console() -> structlog.dev.ConsoleRenderer:
    return structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)


def format_handlers(logger: logging.Logger) -> None:
    """Give the handlers that ``logger`` has this project's format."""
    for handler in logger.handlers:
        stream = getattr(handler, "stream", None)
        handler.setFormatter(formatter(stream is not None and stream.isatty()))


def log_to_stderr(level: str) -> None:
    """For a process that Celery does not set up: log to standard error from ``level`` on."""
    configure()
    root = logging.getLogger()
    root.handlers = [logging.StreamHandler(sys.stderr)]
    root.setLevel(level)
    format_handlers(root)


def format_celery(logger: logging.Logger, **_: Any) -> None:
    """Receiver of Celery's ``after_setup_logger`` signals."""
    for name, level in _PER_TASK.items():
        logging.getLogger(name).setLevel(level)
    format_handlers(logger)
