"""``pipeline dev``: the Procfile's processes on one set of services."""

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

from config.vault import environment
from pipeline.cli.jobspage import address, new_token
from pipeline.cli.stack import DEFAULT_DATA
from pipeline.cli.supervisor import Supervisor
from pipeline.errors import ConfigurationError
from pipeline.services.children import children
from pipeline.services.embedded import embedded_services
from pipeline.services.local import local_services

PROCFILE = Path("Procfile")

#: Processes that need an extra of the same name, and the package that tells whether it is there.
OPTIONAL = {"flower": "flower", "web": "fastapi"}

#: What another terminal sources to use the same services; there while ``pipeline dev`` runs.
ENVIRONMENT_FILE = Path(".pipeline/dev.env")

#: What another terminal must have as well, where it is set: which stages there are, and their topics' names.
STAGES_AND_TOPICS = ("TASK_MODULES", "TOPIC_", "KAFKA_TOPIC_")


@click.command(
    short_help="Run what the Procfile lists, until Ctrl-C.",
    epilog="""\b
Examples:
  pipeline dev
  TASK_MODULES=shop pipeline dev --services local
  . .pipeline/dev.env     in another terminal: the same services and stages

A Procfile of this project runs bridge, worker, jobs page and Flower; docs/stages.md shows it.""",
)
@click.option(
    "--services",
    type=click.Choice(["embedded", "local"]),
    help="Where to run: embedded (memory only; the default) or local (needs java and mvn; data is kept). "
    "Without it, an environment that names KAFKA_BOOTSTRAP_SERVERS is used as it is.",
)
def dev(services: str | None) -> None:
    """Run what the Procfile lists until Ctrl-C, or until one of it ends."""
    processes = _read_procfile()
    with _services(services) as variables, children() as started:
        supervisor = Supervisor(started, terminal=sys.stdout.isatty())
        # Flower without a password serves this machine only; what the environment says comes first.
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
            f"No Procfile in {Path.cwd()}: it lists what pipeline dev runs, one 'name: command' a line, as "
            "'worker: celery -A pipeline worker'. docs/stages.md has one to begin with."
        ) from error
    for name, package in OPTIONAL.items():
        if name in processes and importlib.util.find_spec(package) is None:
            _say(
                f"{name} is left out, {package} is not installed. To have it: pip install 'pipeline[{name}]'."
            )
            del processes[name]
    if not processes:
        raise ConfigurationError(f"{PROCFILE.absolute()} lists no process: write one 'name: command' a line.")
    return processes


def _jobs_page(environment: Mapping[str, str]) -> dict[str, str]:
    """What the jobs page needs over the environment: a port, and a token, made up where none is set."""
    port = environment.get("WEB_PORT") or "8080"
    if environment.get("WEB_TOKEN"):
        _say(f"The jobs page: http://127.0.0.1:{port} (any name, and WEB_TOKEN as the password)")
        return {"WEB_PORT": port}
    token = new_token()
    _say(f"The jobs page: {address(int(port), token)}")
    return {"WEB_PORT": port, "WEB_TOKEN": token}


@contextlib.contextmanager
def _services(name: str | None) -> Iterator[Mapping[str, str]]:
    """The variables that point at the services, which run while the block does."""
    if name is None and (servers := environment().get("KAFKA_BOOTSTRAP_SERVERS")):
        _say(f"Using the environment as it is (Kafka at {servers}).")
        yield {}
        return
    if name == "local":
        running = local_services(DEFAULT_DATA, progress=_say)
    else:
        _say("Starting the embedded services: memory only, what is in them is gone when this ends.")
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
    _say(f"To use the same services from another terminal: . {ENVIRONMENT_FILE}")
    try:
        yield
    finally:
        ENVIRONMENT_FILE.unlink(missing_ok=True)


def _path() -> str:
    """PATH with this Python's scripts first: the Procfile's celery is the one installed beside us."""
    return os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)])


def _say(line: str) -> None:
    click.echo(line, err=True)
