"""A fleet for tests of the control plane: three workers, a bridge and a Flower on the local services."""

import base64
import json
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from kombu.exceptions import OperationalError

from pipeline.author.decorator import stage
from pipeline.author.registry import Registry
from pipeline.celery import make_app
from pipeline.control.controlplane import close_control_plane
from pipeline.infra.provision import provision
from pipeline.services.children import Children, children
from pipeline.services.environment import Services
from pipeline.settings import Settings, load_settings
from tests.conftest import MakeEnvironment
from tests.processes import PATIENCE, free_port, wait_until

CELERY = (sys.executable, "-m", "celery", "-A", "pipeline")
AUTH = "ada:secret"

#: The commands that the tests send, beside those that need no setting.
COMMANDS = (
    "add_consumer",
    "autoscale",
    "cancel_consumer",
    "pool_grow",
    "pool_shrink",
    "rate_limit",
    "revoke",
    "shutdown",
    "terminate",
    "time_limit",
)

#: A worker's name and its options: the pools that people use.
WORKERS = {
    "prefork": ("--concurrency", "2"),
    "scaling": ("--autoscale", "3,1"),
    "threads": ("--pool", "threads", "--concurrency", "2"),
}


@dataclass
class Flower:
    """A running Flower, asked over HTTP."""

    process: "subprocess.Popen[bytes]"
    port: int
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def get(self, path: str) -> str:
        """The body of a page; fails on any status but 200."""
        return self._open(path, None)

    def json(self, path: str) -> Any:
        return json.loads(self.get(path))

    def post(self, path: str, body: object = None, **form: object) -> Any:
        data = json.dumps(body) if body is not None else urllib.parse.urlencode(form)
        return json.loads(self._open(path, data.encode()))

    def act(self, path: str, **form: object) -> Any:
        """Post an action; again while Flower says that no worker answered within its second."""
        answers: list[Any] = []

        def answered() -> bool:
            try:
                answers.append(self.post(path, **form))
            except urllib.error.HTTPError as error:
                with error:
                    if error.code != 403:
                        raise
            return bool(answers)

        wait_until(answered, path)
        return answers[0]

    def task(self, task_id: str) -> dict[str, Any]:
        """Return Flower's record of a task; {} for an unknown one."""
        try:
            found: dict[str, Any] = self.json(f"/api/task/info/{task_id}")
        except urllib.error.HTTPError as error:
            with error:
                if error.code != 404:
                    raise
            return {}
        return found

    def _open(self, path: str, data: bytes | None) -> str:
        token = base64.b64encode(AUTH.encode()).decode()
        request = urllib.request.Request(  # noqa: S310 - the scheme is http, above
            self.url + path, data=data, headers={"Authorization": f"Basic {token}"}
        )
        with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310
            return str(answer.read().decode())


@dataclass
class Fleet:
    """The processes of one service, and a Celery app that speaks to them."""

    environment: Mapping[str, str]
    settings: Settings
    registry: Registry
    app: Celery
    folder: Path
    children: Children
    workers: "dict[str, subprocess.Popen[bytes]]" = field(default_factory=dict)

    def start(self, name: str, *command: str, **variables: str) -> "subprocess.Popen[bytes]":
        with (self.folder / f"{name}.log").open("ab") as log:
            return self.children.start(
                [*CELERY, *command], environment={**self.environment, **variables}, output=log
            )

    def start_worker(self, name: str, *options: str, **variables: str) -> None:
        """Start a worker; it is not yet there."""
        self.workers[name] = self.start(
            name, "worker", "-n", f"{name}@test", "--loglevel", "INFO", *options, **variables
        )

    def wait_for(self, *names: str) -> None:
        """Wait until these workers answer."""
        expected = {f"{name}@test" for name in names}

        def answered() -> bool:
            try:
                return expected <= set(self.ask("ping", destination=sorted(expected), timeout=2))
            except OperationalError:
                return False  # Kafka does not answer a client in time

        wait_until(answered, f"workers {names}: {self.log(*names)}", 90)

    def start_flower(self, name: str = "flower", *options: str, **variables: str) -> Flower:
        """Start a Flower and wait for it."""
        port = free_port()
        command = ("flower", "--address=127.0.0.1", f"--port={port}", *options)
        process = self.start(name, *command, FLOWER_BASIC_AUTH=AUTH, **variables)
        flower = Flower(process, port, self.folder / f"{name}.log")
        wait_until(lambda: _answers(flower), "Flower")
        return flower

    def log(self, *names: str) -> str:
        return "".join((self.folder / f"{name}.log").read_text() for name in names)

    def ask(
        self,
        command: str,
        *,
        destination: list[str] | None = None,
        timeout: float = PATIENCE,
        **arguments: object,
    ) -> dict[str, Any]:
        """The answers to an inspect or control command by worker; of all three unless told otherwise."""
        destination = destination or [f"{name}@test" for name in WORKERS]
        replies = self.app.control.broadcast(
            command, arguments=arguments, destination=destination, reply=True, timeout=timeout
        )
        return {name: answer for reply in replies or [] for name, answer in reply.items()}

    def queues(self, name: str) -> list[str]:
        """Return the queues that a worker takes tasks from."""
        worker = f"{name}@test"
        answer = self.ask("active_queues", destination=[worker])[worker]
        return [each["name"] for each in answer or []]

    def cli(
        self, *arguments: str, environment: Mapping[str, str] | None = None, **options: Any
    ) -> "subprocess.CompletedProcess[str]":
        """Run ``celery -A pipeline`` with these arguments."""
        return subprocess.run(
            [*CELERY, *arguments],
            env=dict(environment or self.environment),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            **options,
        )


def _answers(flower: Flower) -> bool:
    assert flower.process.poll() is None, flower.log.read_text()
    try:
        return flower.get("/healthcheck") == "OK"
    except OSError:
        return False


@contextmanager
def run_fleet(services: Services, make_environment: MakeEnvironment, folder: Path) -> Iterator[Fleet]:
    """A fleet of three workers and a bridge; the block begins when they answer."""
    environment = make_environment(
        services,
        TASK_MODULES="tests.integration.chores",
        MAX_RETRIES="1",
        RETRY_DELAY="0.1",
        CONTROL_COMMANDS=",".join(COMMANDS),
        CONTROL_KEY="a-key-of-this-fleet-and-no-other-one",
    )
    with pytest.MonkeyPatch.context() as patch, children() as started:
        for name, value in environment.items():
            if name.startswith("AWS_"):
                patch.setenv(name, value)
        settings = load_settings(environment)
        registry = _registry()
        list(provision(settings, registry))
        fleet = Fleet(environment, settings, registry, _client(settings), folder, started)
        for name, options in WORKERS.items():
            fleet.start_worker(name, *options)
        fleet.start("bridge", "bridge")
        fleet.wait_for(*WORKERS)
        yield fleet
        close_control_plane()


def _registry() -> Registry:
    registry = Registry()

    @stage(consumes="dishes", emits="clean-dishes", registry=registry)
    def wash(dish: str) -> str:
        return dish

    return registry


def _client(settings: Settings) -> Celery:
    """An app of this process that speaks to the fleet; it knows no tasks."""
    app = make_app(settings)
    app.set_current = lambda: None
    return app
