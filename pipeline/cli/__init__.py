"""The ``pipeline`` command: one module for each command, imported on use."""

import sys
from importlib import import_module
from typing import Any

import click
import structlog

from pipeline import __version__
from pipeline.errors import ConfigurationError, PipelineError, StageDefinitionError
from pipeline.telemetry.terminal import clean

#: Command name → the module that defines it under the same name.
COMMANDS = {
    "demo": "pipeline.cli.demo",
    "dev": "pipeline.cli.dev",
    "stack": "pipeline.cli.stack",
    "provision": "pipeline.cli.provision",
    "schemas": "pipeline.cli.schemas",
    "submit": "pipeline.cli.submit",
    "jobs": "pipeline.cli.jobs",
    "schedules": "pipeline.cli.schedules",
    "dlq": "pipeline.cli.dlq",
    "replay": "pipeline.cli.replay",
    "web": "pipeline.cli.web",
    "monitor": "pipeline.cli.monitor",
    "check": "pipeline.cli.check",
    "capacity": "pipeline.cli.capacity",
    "migrate": "pipeline.cli.migrate",
}

#: The exit code that shells use for Ctrl-C.
INTERRUPTED = 130


class CommandTable(click.Group):
    """A group that imports a command's module on use, and prints errors as one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the table, in its order."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command from its module; None for an unknown name."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(import_module(COMMANDS[cmd_name]), cmd_name)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run it; this project's errors become a line on standard error and an exit code."""
        _log_to_stderr()
        try:
            return super().invoke(ctx)
        except (ConfigurationError, StageDefinitionError) as error:
            _fail(error, 2)
        except PipelineError as error:
            _fail(error, 1)
        except click.ClickException as error:
            # It may quote what was typed. click declares the message final, and prints it itself.
            object.__setattr__(error, "message", clean(error.message))
            raise
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)


def _log_to_stderr() -> None:
    """Send log lines to standard error: standard output holds results only."""
    if not structlog.is_configured():
        structlog.configure(
            wrapper_class=structlog.make_filtering_bound_logger("WARNING"),
            # Looked up for each line: the stream may be replaced.
            logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
        )


def _fail(error: PipelineError, code: int) -> None:
    click.echo(clean(f"Error: {error}"), err=True)
    sys.exit(code)


@click.group(
    cls=CommandTable,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="""\b
Examples:
  pipeline demo                     the whole pipeline on one machine
  pipeline dev                      the processes of a Procfile
  pipeline provision --update       before each deployment
  pipeline jobs list --state failed

docs/reference/commands.md describes every command.""",
)
@click.version_option(__version__)
def main() -> None:
    """Celery tasks on SQS FIFO, fed by Kafka.

    The processes themselves are Celery commands: celery -A pipeline worker | bridge | flower.
    """
