"""Health as an orchestrator sees it: of ``pipeline web``, and of a worker with HEALTH_PORT."""

import json
import resource
import signal
import socket
import subprocess
import sysconfig
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from pipeline.observe.probe import LIFETIME
from pipeline.services.environment import Services
from tests.conftest import MakeEnvironment
from tests.processes import PATIENCE, free_port, wait_until

SCRIPTS = Path(sysconfig.get_path("scripts"))

Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a process, and ends at the end whatever still runs."""
    with ExitStack() as ends:

        def start(*command: str, env: dict[str, str]) -> "subprocess.Popen[bytes]":
            log = ends.enter_context((tmp_path / f"{Path(command[0]).name}.log").open("wb"))
            process = subprocess.Popen(
                [SCRIPTS / command[0], *command[1:]],
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
            ends.callback(_end, process)
            return process

        yield start


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def ask(port: int, path: str) -> dict[str, Any] | None:
    """The body of an answer; None while nobody listens."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=20) as response:
            answer: dict[str, Any] = json.loads(response.read())
    except urllib.error.HTTPError as error:
        with error:
            answer = json.loads(error.read())
    except OSError:
        return None
    return answer


def test_web_serves_health_and_ends_on_a_signal(
    embedded_services: Services, make_environment: MakeEnvironment, start: Start, port: int, tmp_path: Path
) -> None:
    """It starts where nothing is provisioned, says so, and SIGTERM ends it with success."""
    process = start("pipeline", "web", "--port", str(port), env=make_environment(embedded_services))
    wait_until(lambda: ask(port, "/live"), "pipeline web listens")
    health = ask(port, "/health")
    assert health is not None
    assert health["status"] == "unhealthy"
    taken = subprocess.run(
        [SCRIPTS / "pipeline", "web", "--port", str(port)],
        env=make_environment(embedded_services),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert taken.returncode == 2
    assert f"port {port}: Address already in use. Choose another port." in taken.stderr
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) in (0, -signal.SIGTERM)
    assert "Traceback" not in (tmp_path / "pipeline.log").read_text()


def test_a_worker_serves_its_health(
    embedded_services: Services, make_environment: MakeEnvironment, start: Start, port: int, tmp_path: Path
) -> None:
    """Ready once it runs, with the queue's numbers; gone when it ends."""
    environment = make_environment(
        embedded_services, HEALTH_PORT=str(port), TASK_MODULES="pipeline.demo.documents"
    )
    command = ("celery", "-A", "pipeline", "worker", "--concurrency", "1")
    process = start(*command, env=environment)
    wait_until(lambda: (ask(port, "/ready") or {}).get("status") == "ready", "the worker is ready")
    health = ask(port, "/health")
    assert health is not None
    assert health["dependencies"]["sqs"]["messages_available"] == 0
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) == 0
    assert ask(port, "/live") is None
    log = (tmp_path / "celery.log").read_text()
    assert "Traceback" not in log


def test_strangers_on_the_health_port_take_no_descriptor_of_the_worker(
    embedded_services: Services, make_environment: MakeEnvironment, start: Start, port: int, tmp_path: Path
) -> None:
    """A thousand connections that never finish a request: a worker that may open 256 files is still alive."""
    environment = make_environment(
        embedded_services, HEALTH_PORT=str(port), TASK_MODULES="pipeline.demo.documents"
    )
    process = start("celery", "-A", "pipeline", "worker", "--concurrency", "1", env=environment)
    resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (256, 256))
    wait_until(lambda: (ask(port, "/ready") or {}).get("status") == "ready", "the worker is ready")
    with ExitStack() as strangers:
        for _ in range(1_100):
            stranger = strangers.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
            with suppress(ConnectionError):
                stranger.sendall(b"GET /live HTTP/1.1\r\nX: ")
        # Its clients connect anew for each of these.
        for _ in range(3):
            assert (ask(port, "/health") or {})["status"] == "healthy"
            time.sleep(LIFETIME)
        assert len(list(Path(f"/proc/{process.pid}/fd").iterdir())) < 200
    log = (tmp_path / "celery.log").read_text()
    assert "Too many open files" not in log
    assert len(log) < 100_000
