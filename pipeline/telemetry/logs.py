"""Structured logs: one JSON object a line, or readable lines on a terminal.

This project's loggers, Celery's and those of user code share one formatter.
"""

import json
import logging
import sys
from typing import Any

import structlog
from structlog.types import EventDict, Processor

from pipeline.telemetry.fields import add_current_task
from pipeline.telemetry.repeats import limit_repeats
from pipeline.telemetry.terminal import clean
from pipeline.wire.redaction import redact_event

#: Libraries that log at INFO, at each start, where they found credentials and endpoints.
_CHATTY = ("botocore", "boto3", "urllib3")

#: Celery's lines about each task hold its arguments but not its job. The worker's parent process writes one
#: line instead, when it settles the task.
_PER_TASK = {"celery.worker.strategy": logging.WARNING, "celery.app.trace": logging.CRITICAL}

#: The processors of every line.
_SHARED: tuple[Processor, ...] = (
    structlog.contextvars.merge_contextvars,
    add_current_task,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
)


def configure() -> None:
    """Send structlog's lines through the standard library's loggers, where levels and handlers are set."""
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


class _Formatter(structlog.stdlib.ProcessorFormatter):
    """structlog's, which leaves ``message`` in the record for other handlers, as logging's own does."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line = super().format(record)
        record.message = record.getMessage()
        return line


def _drop_formatted(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """Drop what the formatter of another handler left in the record: no extra field has these names."""
    for name in ("message", "asctime"):
        event.pop(name, None)
    return event


def formatter(terminal: bool) -> logging.Formatter:
    """Return the formatter of a handler: readable lines for a terminal, JSON for everything else."""
    json_lines = structlog.processors.JSONRenderer(default=repr)
    return _Formatter(
        foreign_pre_chain=[structlog.stdlib.ExtraAdder(), _drop_formatted, *_SHARED],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            redact_event,
            *((_clean_event, _console()) if terminal else (json_lines,)),
        ],
    )


def terminal_line(line: str) -> str:
    """Return a JSON log line as a terminal shows it, without its time; clean any other line."""
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return clean(line)
    if not isinstance(event, dict) or not isinstance(event.get("event"), str):
        return clean(line)
    event.pop("timestamp", None)
    return str(_console()(None, "", _clean_event(None, "", event)))


def _clean_event(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """Clean all text of a line (a structlog processor): only the renderer's colours reach the terminal."""
    # Other values are rendered by repr, which escapes what is not printed.
    return {clean(name): clean(value) if isinstance(value, str) else value for name, value in event.items()}


def _console() -> structlog.dev.ConsoleRenderer:
    return structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)


def format_handlers(logger: logging.Logger) -> None:
    """Give the handlers of ``logger`` this project's format, and a limit on repeated lines."""
    for handler in logger.handlers:
        limit_repeats(handler)
        stream = getattr(handler, "stream", None)
        handler.setFormatter(formatter(stream is not None and stream.isatty()))


def log_to_stderr(level: str) -> None:
    """Log to standard error from ``level`` on, in a process that Celery does not set up."""
    configure()
    root = logging.getLogger()
    root.handlers = [logging.StreamHandler(sys.stderr)]
    root.setLevel(level)
    format_handlers(root)


def format_celery(logger: logging.Logger, **_: Any) -> None:
    """Format the handlers of Celery's loggers (a receiver of its ``after_setup_logger`` signals)."""
    for name, level in _PER_TASK.items():
        logging.getLogger(name).setLevel(level)
    format_handlers(logger)
