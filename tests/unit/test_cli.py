"""Common behaviour of ``pipeline`` commands: lazy modules, errors as one line and an exit code."""

import subprocess
import sys
from collections.abc import Iterator
from types import ModuleType

import click
import pytest
from click.testing import CliRunner, Result

from pipeline import cli
from pipeline.errors import ConfigurationError, PipelineError, ServiceRefusedError


def _run(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> Result:
    """The outcome of a command that raises ``error``."""

    @click.command()
    def broken() -> None:
        raise error

    module = ModuleType("a_broken_command")
    module.broken = broken  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(cli.COMMANDS, "broken", module.__name__)
    return CliRunner().invoke(cli.main, ["broken"])


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigurationError("SERVICE_NAME is not set"), 2),
        (ServiceRefusedError("SQS said no"), 1),
        (PipelineError("anything else of ours"), 1),
    ],
)
def test_errors_of_ours_are_one_line(
    monkeypatch: pytest.MonkeyPatch, error: PipelineError, code: int
) -> None:
    """An error of this project is its message on standard error; exit code 2 for configuration, else 1."""
    result = _run(monkeypatch, error)
    assert result.exit_code == code
    assert result.stdout == ""
    assert result.stderr == f"Error: {error}\n"


def test_ctrl_c_exits_as_shells_expect(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C ends any command with 130 and without a traceback."""
    result = _run(monkeypatch, KeyboardInterrupt())
    assert result.exit_code == 130
    assert "Traceback" not in result.output


def test_defects_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that is not of this project keeps its traceback: it is a defect."""
    assert isinstance(_run(monkeypatch, ZeroDivisionError()).exception, ZeroDivisionError)


def test_help_lists_the_commands() -> None:
    """``pipeline --help`` works and names what there is."""
    result = CliRunner().invoke(cli.main, ["--help"])
    assert result.exit_code == 0
    for name in ("stack", "dev"):
        assert name in result.output


def _commands(
    command: click.Command, name: str, above: click.Context | None = None
) -> Iterator[tuple[str, str]]:
    """Each command and group below one, with its full name and what its ``--help`` says."""
    context = click.Context(command, info_name=name, parent=above)
    yield context.command_path, command.get_help(context)
    for inner in command.list_commands(context) if isinstance(command, click.Group) else ():
        found = command.get_command(context, inner) if isinstance(command, click.Group) else None
        assert found is not None
        yield from _commands(found, inner, context)


def test_every_command_shows_how_it_is_used() -> None:
    """Each has examples that begin as it is typed; what a list says of it is a whole sentence."""
    for path, told in _commands(cli.main, "pipeline"):
        listed = told.partition("Commands:")[2]
        assert "..." not in listed, path
        assert path in told.partition("Examples:")[2], path


def test_help_is_there_under_its_short_name() -> None:
    """``-h``, of the whole and of a command."""
    for arguments in (["-h"], ["jobs", "show", "-h"]):
        assert CliRunner().invoke(cli.main, arguments).output.startswith("Usage:")


def test_modules_are_imported_when_used() -> None:
    """``pipeline --version`` imports no command, and none of Celery, boto3 and confluent-kafka."""
    program = (
        "import sys, contextlib\n"
        "from pipeline.cli import main\n"
        "with contextlib.suppress(SystemExit):\n"
        "    main(['--version'])\n"
        "heavy = {'celery', 'boto3', 'confluent_kafka'}\n"
        "print(sorted({name.split('.')[0] for name in sys.modules} & heavy))\n"
        "print([name for name in sys.modules if name.startswith('pipeline.cli.')])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout.splitlines()[-2:] == ["[]", "[]"]
