"""``pipeline stack``: the local services in the background, from a data folder that survives restarts."""

import json
import shlex
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from pipeline.errors import ServiceUnavailableError
from pipeline.services.environment import Services
from pipeline.services.local import LocalStack

#: Where the servers keep their data unless told otherwise.
DEFAULT_DATA = Path(".pipeline/stack")


def _options(command: Callable[..., None]) -> Callable[..., None]:
    data = click.option(
        "--data",
        type=click.Path(file_okay=False, path_type=Path),
        default=DEFAULT_DATA,
        show_default=True,
        help="The servers' data folder.",
    )
    as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
    return data(as_json(command))


@click.group(short_help="Run Kafka, ElasticMQ and DynamoDB Local, without Docker.")
def stack() -> None:
    """Run Apache Kafka, ElasticMQ and DynamoDB Local in the background (needs java and mvn)."""


@stack.command(
    epilog="""\b
Examples:
  pipeline stack up && eval "$(pipeline stack env)"
  pipeline stack up --data /var/tmp/stack --json"""
)
@_options
def up(data: Path, as_json: bool) -> None:
    """Start what does not run, and wait until all of it answers."""
    console = Console(stderr=True, highlight=False)
    with console.status("looking at what runs") as status:

        def progress(line: str) -> None:
            console.print(line)
            status.update(line)

        services = LocalStack(data).up(progress)
    if as_json:
        _print_json({"services": services.name, "environment": dict(services.environment)})
    else:
        click.echo(f'Up. Point a shell at it with: eval "$(pipeline stack env{_data_option(data)})"')


@stack.command(
    epilog="""\b
Examples:
  pipeline stack down
  pipeline stack down && rm -r .pipeline/stack     with the data"""
)
@_options
def down(data: Path, as_json: bool) -> None:
    """Stop what runs, and wait until it has ended. The data stays."""
    stopped = LocalStack(data).down()
    if as_json:
        _print_json({"stopped": stopped})
    elif stopped:
        click.echo(f"Stopped {', '.join(stopped)}. The data stays in {data}.")
    else:
        click.echo(f"Nothing of {data} was running.")


@stack.command(
    epilog="""\b
Examples:
  pipeline stack status
  pipeline stack status --json | jq -r 'to_entries[] | select(.value.ready | not).key'"""
)
@_options
@click.pass_context
def status(context: click.Context, data: Path, as_json: bool) -> None:
    """Show each server; exit code 1 unless all of them answer."""
    servers = LocalStack(data).status()
    if as_json:
        _print_json({name: asdict(server) for name, server in servers.items()})
    else:
        for server in servers.values():
            state = "ready" if server.ready else "stopped" if server.pid is None else "not answering"
            place = "" if server.pid is None else f"port {server.port}  pid {server.pid}"
            click.echo(f"{server.title + ' ' + server.version:<24}{state:<15}{place}".rstrip())
    context.exit(0 if all(server.ready for server in servers.values()) else 1)


@stack.command(
    short_help="Print the variables that point a process at it.",
    epilog="""\b
Examples:
  eval "$(pipeline stack env)"
  pipeline stack env --json > environment.json""",
)
@_options
def env(data: Path, as_json: bool) -> None:
    """Print the variables that point a process at the running stack, for a shell's eval."""
    environment = _running(data).environment
    if as_json:
        _print_json(dict(environment))
    else:
        for name, value in environment.items():
            click.echo(f"export {name}={shlex.quote(value)}")


def _running(data: Path) -> Services:
    services = LocalStack(data).services()
    if services is None:
        raise ServiceUnavailableError(
            f"The local services of {data} do not run: start them with pipeline stack up{_data_option(data)}."
        )
    return services


def _data_option(data: Path) -> str:
    return "" if data == DEFAULT_DATA else f" --data {shlex.quote(str(data))}"


def _print_json(value: dict[str, Any]) -> None:
    click.echo(json.dumps(value))
