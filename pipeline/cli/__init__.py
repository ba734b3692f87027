"""The ``pipeline`` command: one module a command group, loaded when asked for."""

import sys
from importlib import import_module
from typing import Any

import click
import structlog

from pipeline.errors import ConfigurationError, PipelineError

#: Command name → the module that defines it, under the same name.
COMMANDS = {
    "demo": "pipeline.cli.demo",
    "dev": "pipeline.cli.dev",
    "stack": "pipeline.cli.stack",
    "provision": "pipeline.cli.provision",
    "submit": "pipeline.cli.submit",
    "jobs": "pipeline.cli.jobs",
    "dlq": "pipeline.cli.dlq",
    "replay": "pipeline.cli.replay",
    "web": "pipeline.cli.web",
    "monitor": "pipeline.cli.monitor",
    "check": "pipeline.cli.check",
}

#: What the shell reports for a process ended by Ctrl-C.
INTERRUPTED = 130


class CommandTable(click.Group):
    """A group that imports a command's module only when that command is used, and ends errors in one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Those of the table, in its order."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, from its module; None when there is no such."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(import_module(COMMANDS[cmd_name]), cmd_name)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run it: this project's errors are a line on standard error and an exit code, not a traceback."""
        _log_to_stderr()
        try:
            return super().invoke(ctx)
        except ConfigurationError as error:
            _fail(error, 2)
        except PipelineError as error:
            _fail(error, 1)
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)


def _log_to_stderr() -> None:
    """Standard output holds results only; whatever is logged beneath a command goes beside it."""
    if not structlog.is_configured():
        structlog.configure(
            wrapper_class=structlog.make_filtering_bound_logger("WARNING"),
            # Looked up at each line: the stream may be another by then.
            logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
        )


def _fail(error: PipelineError, code: int) -> None:
    # Loaded by now: only a command's module raises such an error.
    from pipeline.cli.edge import clean

    click.echo(clean(f"Error: {error}"), err=True)
    sys.exit(code)


@click.group(cls=CommandTable, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="pipeline")
def main() -> None:
    """Celery tasks on SQS FIFO, fed by Kafka.

    The processes themselves are Celery commands: celery -A pipeline worker | bridge | flower.
    """
