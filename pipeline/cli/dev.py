"""``pipeline dev``: the processes of a Procfile on one set of services."""

import contextlib
import importlib.util
import os
import shlex
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path

import click
from honcho.environ import parse_procfile

from pipeline.cli.output import REMARKS
from pipeline.cli.stack import DEFAULT_DATA
from pipeline.cli.supervisor import Supervisor
from pipeline.cli.web import address, new_token
from pipeline.errors import ConfigurationError
from pipeline.services.children import children
from pipeline.services.embedded import embedded_services
from pipeline.services.local import local_services
from pipeline.vault import environment

PROCFILE = Path("Procfile")

#: Processes that need an extra of the same name, and a package that only the extra installs.
OPTIONAL = {"flower": "flower", "web": "fastapi"}

#: The variables for another terminal to use the same services; the file exists while ``pipeline dev`` runs.
ENVIRONMENT_FILE = Path(".pipeline/dev.env")

#: Prefixes of variables that another terminal needs as well: the stages and the names of their topics.
STAGES_AND_TOPICS = ("TASK_MODULES", "CONSUMER_MODULES", "TOPIC_", "KAFKA_TOPIC_")


@click.command(
    short_help="Run the processes of the Procfile until Ctrl-C.",
    epilog="""\b
Examples:
  pipeline dev
  TASK_MODULES=shop pipeline dev --services local
  . .pipeline/dev.env     in another terminal: the same services and stages

A Procfile lists processes, one "name: command" a line; docs/tutorial.md has one with bridge, worker,
jobs page and Flower. Exit code 1 when a process ends by itself.""",
)
@click.option(
    "--services",
    type=click.Choice(["embedded", "local"]),
    help="embedded: in memory, the default. local: needs java and mvn, keeps its data. "
    "Without this option, the services of KAFKA_BOOTSTRAP_SERVERS are used when it is set.",
)
def dev(services: str | None) -> None:
    """Run the processes of the Procfile until Ctrl-C, or until one of them ends."""
    processes = _read_procfile()
    with _services(services) as variables, children() as started:
        supervisor = Supervisor(started, terminal=sys.stdout.isatty())
        # Flower has no password here, so it serves this machine only, unless the environment says otherwise.
        environment = {"FLOWER_ADDRESS": "127.0.0.1", **os.environ, **variables, "PATH": _path()}
        environment["PYTHONUNBUFFERED"] = "1"
        if "web" in processes:
            environment |= _jobs_page(environment)
        for name, command in processes.items():
            supervisor.start(name, command, environment)
        code = supervisor.run()
    sys.exit(code)


def _read_procfile() -> dict[str, str]:
    try:
        processes: dict[str, str] = dict(parse_procfile(PROCFILE.read_text()).processes)
    except FileNotFoundError as error:
        raise ConfigurationError(
            f"No Procfile in {Path.cwd()}. Write one with a 'name: command' on each line, such as "
            "'worker: celery -A pipeline worker'. docs/tutorial.md has one to start with."
        ) from error
    for name, package in OPTIONAL.items():
        if name in processes and importlib.util.find_spec(package) is None:
            REMARKS.print(
                f"{name} is left out, {package} is not installed. To have it: "
                f"pip install 'celery-stages[{name}]'."
            )
            del processes[name]
    if not processes:
        raise ConfigurationError(f"{PROCFILE.absolute()} lists no process: write one 'name: command' a line.")
    return processes


def _jobs_page(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the port and the token of the jobs page; a random token when none is set."""
    port = environment.get("WEB_PORT") or "8080"
    if environment.get("WEB_TOKEN"):
        REMARKS.print(f"The jobs page: http://127.0.0.1:{port} (any name, and WEB_TOKEN as the password)")
        return {"WEB_PORT": port}
    token = new_token()
    REMARKS.print(f"The jobs page: {address(int(port), token)}")
    return {"WEB_PORT": port, "WEB_TOKEN": token}


@contextlib.contextmanager
def _services(name: str | None) -> Iterator[Mapping[str, str]]:
    """Run the services for the block; give the variables that point at them."""
    if name is None and (servers := environment().get("KAFKA_BOOTSTRAP_SERVERS")):
        REMARKS.print(f"Using the services of the environment (Kafka at {servers}).")
        yield {}
        return
    if name == "local":
        running = local_services(DEFAULT_DATA, progress=REMARKS.print)
    else:
        REMARKS.print("Starting the embedded services: in memory, their data is lost when this command ends.")
        running = embedded_services()
    own = {name: value for name, value in os.environ.items() if name.startswith(STAGES_AND_TOPICS)}
    with running as services, _environment_file({**own, **services.environment}):
        yield services.environment


@contextlib.contextmanager
def _environment_file(environment: Mapping[str, str]) -> Iterator[None]:
    ENVIRONMENT_FILE.parent.mkdir(exist_ok=True)
    ENVIRONMENT_FILE.write_text(
        "".join(f"export {name}={shlex.quote(value)}\n" for name, value in environment.items())
    )
    REMARKS.print(f"To use the same services from another terminal: . {ENVIRONMENT_FILE}")
    try:
        yield
    finally:
        ENVIRONMENT_FILE.unlink(missing_ok=True)


def _path() -> str:
    """Return PATH with this Python's scripts first: the Procfile's celery is the one of this environment."""
    return os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)])
