"""``pipeline stack``: the local services in the background, with data that survives restarts."""

import shlex
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import click

from pipeline.cli.output import Console, echo, print_json
from pipeline.errors import ServiceUnavailableError
from pipeline.services.environment import Services
from pipeline.services.local import LocalStack
from pipeline.services.servers import OPTIONAL

#: The default data folder of the servers.
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


@click.group(
    short_help="Run Kafka, ElasticMQ and DynamoDB Local, without Docker.",
    epilog="""\b
Examples:
  pipeline stack up && eval "$(pipeline stack env)"
  pipeline stack status
  pipeline stack down""",
)
def stack() -> None:
    """Run Apache Kafka, ElasticMQ and DynamoDB Local in the background (needs java and mvn)."""


@stack.command(
    epilog="""\b
Examples:
  pipeline stack up && eval "$(pipeline stack env)"
  pipeline stack up --with registry
  pipeline stack up --data /var/tmp/stack --json"""
)
@click.option(
    "--with",
    "also",
    type=click.Choice(sorted(OPTIONAL)),
    multiple=True,
    help="Also run this server, here from now on (registry: Apicurio Registry, for schemas; s3: S3Mock, for "
    "large payloads).",
)
@_options
def up(data: Path, also: tuple[str, ...], as_json: bool) -> None:
    """Start the servers that do not run, and wait until all answer."""
    console = Console(stderr=True, highlight=False)
    with console.status("checking the servers") as status:

        def progress(line: str) -> None:
            console.print(line)
            status.update(line)

        services = LocalStack(data, also=also).up(progress)
    if as_json:
        print_json({"services": services.name, "environment": dict(services.environment)})
    else:
        echo(f'Up. Point a shell at it with: eval "$(pipeline stack env{_data_option(data)})"')


@stack.command(
    epilog="""\b
Examples:
  pipeline stack down
  pipeline stack down && rm -r .pipeline/stack     with the data"""
)
@_options
def down(data: Path, as_json: bool) -> None:
    """Stop the servers, and wait until they have ended. The data stays."""
    stopped = LocalStack(data).down()
    if as_json:
        print_json({"stopped": stopped})
    elif stopped:
        echo(f"Stopped {', '.join(stopped)}. The data stays in {data}.")
    else:
        echo(f"No server of {data} was running.")


@stack.command(
    epilog="""\b
Examples:
  pipeline stack status
  pipeline stack status --json | jq -r 'to_entries[] | select(.value.ready | not).key'"""
)
@_options
@click.pass_context
def status(context: click.Context, data: Path, as_json: bool) -> None:
    """Show each server. Exit code 1 unless all of them answer."""
    servers = LocalStack(data).status()
    if as_json:
        print_json({name: asdict(server) for name, server in servers.items()})
    else:
        for server in servers.values():
            state = "ready" if server.ready else "stopped" if server.pid is None else "not answering"
            place = "" if server.pid is None else f"port {server.port}  pid {server.pid}"
            echo(f"{server.title + ' ' + server.version:<24}{state:<15}{place}".rstrip())
    context.exit(0 if all(server.ready for server in servers.values()) else 1)


@stack.command(
    short_help="Print the variables for processes that use the stack.",
    epilog="""\b
Examples:
  eval "$(pipeline stack env)"
  pipeline stack env --json > environment.json""",
)
@_options
def env(data: Path, as_json: bool) -> None:
    """Print the variables for processes that use the running stack, for a shell's eval."""
    environment = _running(data).environment
    if as_json:
        print_json(dict(environment))
    else:
        for name, value in environment.items():
            echo(f"export {name}={shlex.quote(value)}")


def _running(data: Path) -> Services:
    services = LocalStack(data).services()
    if services is None:
        raise ServiceUnavailableError(
            f"The local services of {data} are not running. Run pipeline stack up{_data_option(data)}."
        )
    return services


def _data_option(data: Path) -> str:
    return "" if data == DEFAULT_DATA else f" --data {shlex.quote(str(data))}"
