"""``pipeline demo`` as a person runs it: verified, whatever is killed, and nothing left behind."""

import json
import os
import re
import signal
import subprocess
import sysconfig
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.processes import PATIENCE, running, wait_until

PIPELINE = Path(sysconfig.get_path("scripts")) / "pipeline"

#: More text than fits any message of SQS, Kafka's default or an item of DynamoDB.
LARGE = 3_000_000


class Demo:
    """A running ``pipeline demo``: what it has said so far, and the processes it started."""

    def __init__(self, *arguments: str | Path) -> None:
        self.said: list[str] = []
        self.process = subprocess.Popen(
            [PIPELINE, "demo", *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        self.below: set[psutil.Process] = set()

    def wait_for(self, pattern: str, times: int = 1, timeout: float = 3 * PATIENCE) -> list[str]:
        """Return the match of the ``times``-th line with the pattern, and the lines before it."""
        expression = re.compile(pattern)

        def found() -> list[str]:
            self.remember()
            return [match[1] for line in list(self.said) if (match := expression.search(line))]

        def is_there() -> bool:
            assert self.process.poll() is None, "".join(self.said)
            return len(found()) >= times

        wait_until(is_there, pattern, timeout)
        return found()

    def remember(self) -> None:
        """Take note of the processes that run below the demonstration, to see later that they are gone."""
        try:
            self.below |= set(psutil.Process(self.process.pid).children(recursive=True))
        except psutil.NoSuchProcess:
            return

    def end(self, timeout: float = 150) -> tuple[int, str]:
        """Its exit code and standard output."""
        assert self.process.stdout is not None
        output = self.process.stdout.read()
        code = self.process.wait(timeout)
        self._reader.join()
        return code, output

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said.append(line)


@pytest.fixture
def demo() -> Iterator[Callable[..., Demo]]:
    """Starts demonstrations; what still runs of them after the test is ended."""
    started: list[Demo] = []

    def start(*arguments: str | Path) -> Demo:
        started.append(Demo(*arguments))
        return started[-1]

    yield start
    for each in started:
        each.remember()
        if each.process.poll() is None:
            each.process.kill()
        for left in running(each.below):
            left.kill()
        each.end()
        for stream in (each.process.stdout, each.process.stderr):
            assert stream is not None
            stream.close()


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    """Small, large, empty, in another encoding, and binary."""
    folder = tmp_path / "documents"
    folder.mkdir()
    for number in range(20):
        (folder / f"{number}.txt").write_text(f"document number {number}\n" * (number + 1))
    (folder / "large.txt").write_text("größer, 漢字 und 🦊\n" * (LARGE // 25))
    (folder / "one word.txt").write_text("ab" * 100_000)
    (folder / "empty.txt").write_text("")
    (folder / "latin-1.txt").write_bytes("größer\n".encode("latin-1") * 10_000)
    (folder / "binary").write_bytes(bytes(range(256)) * 100)
    return folder


def result(output: str) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(output)
    return fields


@pytest.mark.parametrize("services", ["embedded", "local"])
def test_documents_of_all_kinds_are_verified(
    demo: Callable[..., Demo], documents: Path, services: str, request: pytest.FixtureRequest
) -> None:
    """Small and large ones are counted right, the binary one fails and is no difference; nothing is left."""
    if services == "local":
        request.getfixturevalue("local_programs")
    run = demo(documents, "--services", services, "--json")
    run.wait_for(r"worker started \(pid (\d+)\)")
    code, output = run.end()
    assert code == 0, "".join(run.said)
    fields = result(output)
    assert list(fields) == [
        "services",
        "documents",
        "chunks",
        "words",
        "jobs_completed",
        "jobs_failed",
        "verified",
        "seconds",
        "tasks_per_second",
    ]
    assert fields["verified"] is True
    assert (fields["services"], fields["documents"]) == (services, 25)
    assert (fields["jobs_completed"], fields["jobs_failed"]) == (24, 1)
    assert fields["chunks"] > LARGE / 65_536
    wait_until(lambda: not running(run.below), f"the end of {run.below}")


def test_the_report_for_a_person(demo: Callable[..., Demo], documents: Path) -> None:
    """It lists the binary document with its reason, and says that the rest is verified."""
    code, output = demo(documents).end()
    assert code == 0
    assert "25 documents" in output
    assert re.search(r"binary: .*PermanentError: .*binary is binary: it holds a zero byte", output)
    assert "Verified" in output


def test_changes_of_a_table_are_verified(demo: Callable[..., Demo], documents: Path) -> None:
    """Debezium's records, some written twice: a consumer makes one job of each document."""
    run = demo(documents, "--events", "debezium", "--json")
    code, output = run.end()
    assert code == 0, "".join(run.said) + output
    fields = result(output)
    assert fields["verified"] is True
    assert (fields["documents"], fields["jobs_completed"], fields["jobs_failed"]) == (25, 24, 1)


def test_killed_processes_change_no_count(demo: Callable[..., Demo], local_programs: None) -> None:
    """kill -9 of worker and bridge while they work: every document is still counted right, once."""
    run = demo("--services", "local", "--json")
    worker, bridge = (run.wait_for(rf"{name} started \(pid (\d+)\)")[0] for name in ("worker", "bridge"))
    run.wait_for(r"analysed ([1-9]\d*)")
    os.kill(int(worker), signal.SIGKILL)
    run.wait_for(r"worker started \(pid (\d+)\)", times=2)
    os.kill(int(bridge), signal.SIGKILL)
    run.wait_for(r"bridge started \(pid (\d+)\)", times=2)
    code, output = run.end(240)
    assert code == 0, "".join(run.said) + output
    fields = result(output)
    assert fields["verified"] is True
    assert fields["jobs_completed"] == fields["documents"]
    wait_until(lambda: not running(run.below), f"the end of {run.below}")


def test_the_jobs_page_is_there_until_ctrl_c(demo: Callable[..., Demo], tmp_path: Path) -> None:
    """--web prints an address that shows the jobs also when all is done; Ctrl-C ends it."""
    (tmp_path / "one.txt").write_text("one document")
    run = demo(tmp_path, "--web", "--json")
    [address] = run.wait_for(r"The jobs page: (http\S+)")
    run.wait_for("(is still there)")
    scheme, token, place = re.split("//me:|@", address)
    request = urllib.request.Request(f"{scheme}//{place}/jobs")  # noqa: S310
    request.add_header("Authorization", f"Bearer {token}")
    with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310
        assert "complete" in answer.read().decode()
    run.process.send_signal(signal.SIGINT)
    code, output = run.end()
    assert code == 0
    assert result(output)["verified"] is True
    wait_until(lambda: not running(run.below), f"the end of {running(run.below)}")


@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda each: each.name
)
def test_ending_it_leaves_no_process(demo: Callable[..., Demo], number: signal.Signals) -> None:
    """Ctrl-C, a polite end and kill -9 in the middle of the work: bridge, worker and services are gone."""
    run = demo()
    run.wait_for(r"extracted ([1-9]\d*)")
    assert len(run.below) >= 4
    run.process.send_signal(number)
    code, _ = run.end()
    remarks = "".join(run.said)
    if number != signal.SIGKILL:
        assert re.search(r"Interrupted: \d+ of \d+ documents are done, \d+ are left\.", remarks)
        assert "All processes are stopped" in remarks
    assert code == {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}[number]
    wait_until(lambda: not running(run.below), f"the end of {running(run.below)}")


@pytest.mark.parametrize("name", ["missing", "empty folder"])
def test_bad_paths_are_refused_in_one_line(tmp_path: Path, name: str) -> None:
    """Exit code 2 at once, and nothing is started."""
    (tmp_path / "empty folder").mkdir()
    done = subprocess.run(
        [PIPELINE, "demo", tmp_path / name],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert str(tmp_path / name) in done.stderr
