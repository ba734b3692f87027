"""``pipeline dev`` as a person uses it: one log, Ctrl-C, and no process left behind however it ends."""

import contextlib
import os
import pty
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.processes import PATIENCE, running, wait_until

PIPELINE = Path(sysconfig.get_path("scripts")) / "pipeline"

#: Prints its id and that of a process it started, and what it sees of the services; ends when asked to.
STEADY = """\
import os, signal, subprocess, sys, time
helper = subprocess.Popen(["sleep", "1000"])
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
print("pids", os.getpid(), helper.pid, os.environ["KAFKA_BOOTSTRAP_SERVERS"])
time.sleep(1000)
"""

#: As STEADY, but does not end when asked to.
STUBBORN = STEADY.replace("lambda *_: sys.exit(0)", "signal.SIG_IGN")

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts ``pipeline dev`` in a folder whose Procfile runs the given programs; ended after the test."""
    started: list[subprocess.Popen[str]] = []

    def start(
        *arguments: str,
        environment: dict[str, str] | None = None,
        output: int = subprocess.PIPE,
        **programs: str,
    ) -> "subprocess.Popen[str]":
        lines = []
        for name, program in programs.items():
            (tmp_path / f"{name}.py").write_text(program)
            lines.append(f"{name}: {sys.executable} {tmp_path / name}.py\n")
        (tmp_path / "Procfile").write_text("".join(lines))
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("KAFKA_")}
        process = subprocess.Popen(
            [PIPELINE, "dev", *arguments],
            cwd=tmp_path,
            env={**inherited, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            # The terminal's foreground group, which Ctrl-C signals as a whole.
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_ctrl_c_ends_everything(start: Start, tmp_path: Path) -> None:
    """Ctrl-C stops the processes and the services, and exits with 130."""
    dev = start(one=STEADY, two=STEADY)
    processes = _processes(dev, "one", "two")
    assert (tmp_path / ".pipeline" / "dev.env").exists()
    os.killpg(dev.pid, signal.SIGINT)
    output, _ = dev.communicate(timeout=PATIENCE)
    assert dev.returncode == 130
    assert "one ended with exit code 0" in output
    assert running(processes) == []
    assert not (tmp_path / ".pipeline" / "dev.env").exists()


def test_another_terminal_knows_the_same_stages_and_topics(start: Start, tmp_path: Path) -> None:
    """The file to be sourced has the variables of stages and topics; the services print their own."""
    own = {"TASK_MODULES": "shop", "KAFKA_TOPIC_ORDERS": "my orders", "TOPIC_REPLICATION_FACTOR": "3"}
    dev = start(environment=own, one=STEADY)
    _processes(dev, "one")
    file = (tmp_path / ".pipeline" / "dev.env").read_text().splitlines()
    assert "export TASK_MODULES=shop" in file
    assert "export KAFKA_TOPIC_ORDERS='my orders'" in file
    assert "export TOPIC_REPLICATION_FACTOR=1" in file
    os.killpg(dev.pid, signal.SIGINT)
    dev.communicate(timeout=PATIENCE)


def test_process_that_ends_is_named_and_stops_the_rest(start: Start) -> None:
    """Nothing is restarted silently: the process that ended is named with its exit code, dev exits with 1."""
    dev = start(steady=STEADY, brief="raise SystemExit(7)")
    output, _ = dev.communicate(timeout=PATIENCE)
    assert dev.returncode == 1
    assert "brief ended with exit code 7" in output
    assert "steady ended" in output


def test_worker_killed_leaves_no_child(start: Start) -> None:
    """Processes that a killed process had started are ended, too, and dev does not wait for them."""
    dev = start(one=STEADY)
    processes = _processes(dev, "one")
    processes[0].kill()
    output, _ = dev.communicate(timeout=PATIENCE)
    assert dev.returncode == 1
    assert "one ended by SIGKILL" in output
    assert running(processes) == []


def test_second_ctrl_c_kills(start: Start) -> None:
    """A process that does not end when asked is killed by a second Ctrl-C."""
    dev = start(one=STUBBORN)
    processes = _processes(dev, "one")
    os.killpg(dev.pid, signal.SIGINT)
    _read_until(dev, "stopping one")
    assert running(processes) == processes
    os.killpg(dev.pid, signal.SIGINT)
    dev.communicate(timeout=PATIENCE)
    assert dev.returncode == 130
    assert running(processes) == []


def test_kill_of_dev_leaves_no_process(start: Start) -> None:
    """kill -9 of dev itself ends its processes, theirs and the services within seconds."""
    dev = start(one=STEADY)
    processes = _processes(dev, "one")
    services = psutil.Process(dev.pid).children()
    assert len(services) >= 2, "the process, the services and the keeper"
    dev.kill()
    dev.wait(timeout=PATIENCE)
    wait_until(lambda: not running(processes + services), "the processes of a killed dev end")


def test_environment_that_names_kafka_is_used_as_it_is(start: Start) -> None:
    """With KAFKA_BOOTSTRAP_SERVERS set and no --services, dev starts no services of its own."""
    dev = start(environment={"KAFKA_BOOTSTRAP_SERVERS": "kafka.example:9092"}, one=STEADY)
    assert _read_until(dev, "pids").split()[-1] == "kafka.example:9092"
    dev.send_signal(signal.SIGTERM)
    dev.communicate(timeout=PATIENCE)
    assert dev.returncode == 143


def test_on_a_terminal_logs_are_laid_out(start: Start) -> None:
    """Elsewhere they stay the JSON that they are."""
    program = """print('{"event": "task.done", "level": "info", "exception": "Traceback:\\\\n  No"}')"""
    environment = {"KAFKA_BOOTSTRAP_SERVERS": "kafka.example:9092"}
    dev = start(environment=environment, one=program)
    assert "{" in _read_until(dev, "task.done")
    dev.communicate(timeout=PATIENCE)
    reading, terminal = pty.openpty()
    dev = start(environment=environment, output=terminal, one=program)
    os.close(terminal)
    seen = b""
    with contextlib.suppress(OSError), open(reading, "rb", buffering=0) as shown:  # which ends with an error
        while more := shown.read(1_000):
            seen += more
    assert dev.wait(timeout=PATIENCE) == 1
    lines = seen.decode().splitlines()
    assert any("task.done" in line and "{" not in line for line in lines)
    assert any(line.endswith("  No") for line in lines)


def test_services_asked_for_win_over_the_environment(start: Start) -> None:
    """--services embedded runs them even when the environment names a Kafka."""
    dev = start(
        "--services", "embedded", environment={"KAFKA_BOOTSTRAP_SERVERS": "kafka.example:9092"}, one=STEADY
    )
    assert _read_until(dev, "pids").split()[-1].startswith("127.0.0.1:")
    os.killpg(dev.pid, signal.SIGINT)
    dev.communicate(timeout=PATIENCE)


@pytest.mark.usefixtures("local_programs")
def test_local_services_are_stopped_with_dev(start: Start, tmp_path: Path) -> None:
    """--services local starts the real servers for dev's time, also when dev is killed with -9."""
    dev = start("--services", "local", one=STEADY)
    _processes(dev, "one")
    servers = [
        psutil.Process(int(file.read_text())) for file in (tmp_path / ".pipeline" / "stack").glob("*.pid")
    ]
    assert len(running(servers)) == 3
    dev.kill()
    dev.wait(timeout=PATIENCE)
    wait_until(lambda: not running(servers), "the servers of a killed dev end")


@pytest.mark.parametrize("token", [None, "own"])
def test_the_address_of_the_jobs_page_is_printed(start: Start, token: str | None) -> None:
    """A process called web gets the port that is printed, and a token where the environment has none."""
    program = 'import os; print("web has", os.environ["WEB_PORT"], os.environ["WEB_TOKEN"])'
    dev = start(environment={"WEB_TOKEN": token} if token else None, web=program)
    address = _read_until(dev, "The jobs page: ").split("The jobs page: ")[1].split()[0]
    port, made = _read_until(dev, "web has").split()[-2:]
    assert address == (f"http://127.0.0.1:{port}" if token else f"http://me:{made}@127.0.0.1:{port}")
    assert made == (token or made)
    dev.communicate(timeout=PATIENCE)


def test_no_procfile_is_one_line(tmp_path: Path) -> None:
    """Without a Procfile, dev says where it looked and what belongs in it, and exits with 2."""
    dev = subprocess.run(
        [PIPELINE, "dev"], cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert dev.returncode == 2
    [line] = dev.stderr.splitlines()
    assert str(tmp_path) in line


def _processes(dev: "subprocess.Popen[str]", *names: str) -> list[psutil.Process]:
    """The processes whose ids the programs printed, once all have."""
    found: dict[str, list[psutil.Process]] = {}
    while set(found) != set(names):
        line = _read_until(dev, "| pids ")
        name = line.split("|")[0].split()[-1]
        found[name] = [psutil.Process(int(word)) for word in line.split("pids ")[1].split()[:2]]
    return [process for name in names for process in found[name]]


def _read_until(dev: "subprocess.Popen[str]", text: str) -> str:
    assert dev.stdout is not None
    seen = []
    for line in dev.stdout:
        seen.append(line)
        if text in line:
            return line
    pytest.fail(f"dev ended without printing {text!r}:\n{''.join(seen)}")
