"""Schedules of an app: a bridge fires them, a worker runs them, people see them."""

import json
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipeline.jobs import JobState, JobStore
from pipeline.services.children import Children, children
from pipeline.services.environment import Services
from pipeline.settings import load_settings
from pipeline.wire import identity
from tests.conftest import MakeEnvironment
from tests.processes import PATIENCE, wait_until

CELERY = (sys.executable, "-m", "celery", "-A", "tests.integration.clocks")
SCHEDULES = (str(Path(sysconfig.get_path("scripts")) / "pipeline"), "schedules")


@dataclass
class Clocks:
    """A service of the app."""

    environment: dict[str, str]
    folder: Path
    children: Children

    def start(self, *command: str, **variables: str) -> "subprocess.Popen[bytes]":
        with (self.folder / "log").open("ab") as log:
            return self.children.start(
                [*CELERY, *command], environment={**self.environment, **variables}, output=log
            )

    def run(self, *command: str) -> str:
        """Run a command to its end; its output."""
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def listed(self) -> dict[str, dict[str, Any]]:
        """What ``pipeline schedules --json`` prints, by name."""
        found = map(json.loads, self.run(*SCHEDULES, "--json").splitlines())
        return {each["name"]: each for each in found}

    def lines(self, what: str) -> list[dict[str, Any]]:
        path = self.folder / "lines"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        whole = [json.loads(line) for line in lines if line.endswith("\n")]
        return [line for line in whole if line["what"] == what]

    def wait(self, condition: Any, what: str) -> None:
        try:
            wait_until(condition, what, PATIENCE)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{(self.folder / 'log').read_text()[-8000:]}") from None

    def wait_more(self, what: str, count: int = 2) -> None:
        """Wait until so many more runs wrote a line."""
        before = len(self.lines(what))
        self.wait(lambda: len(self.lines(what)) >= before + count, f"{count} more {what}")


@pytest.fixture
def clocks(
    embedded_services: Services, make_environment: MakeEnvironment, tmp_path: Path
) -> Iterator[Clocks]:
    """The service, with nothing running yet."""
    environment = make_environment(
        embedded_services, TASK_MODULES="tests.integration.clocks", CLOCKS_LOG=str(tmp_path / "lines")
    )
    with pytest.MonkeyPatch.context() as patch, children() as started:
        for name, value in environment.items():
            if name.startswith("AWS_"):
                patch.setenv(name, value)
        yield Clocks(environment, tmp_path, started)


def test_a_stage_and_a_beat_entry_run_at_their_ticks(clocks: Clocks) -> None:
    """Each tick once: a job of its own, a task under an id of its own. People see, pause and resume them."""
    clocks.start("worker", "-c", "1", "--loglevel", "INFO")
    bridge = clocks.start("bridge")
    clocks.wait_more("wind", 3)
    clocks.wait_more("clean", 3)

    moments = [line["at"] for line in clocks.lines("wind")]
    assert moments == [moments[0] + 2 * number for number in range(len(moments))]
    assert {line["entity"] for line in clocks.lines("wind")} == {"wind_clock"}
    job_id = clocks.lines("wind")[0]["job"]
    store = JobStore(load_settings(clocks.environment))
    clocks.wait(lambda: store.records.get(job_id).state is JobState.COMPLETE, "the job is complete")  # type: ignore[union-attr]

    service, now = clocks.environment["SERVICE_NAME"], int(time.time())
    ids = [
        identity.scheduled_task_id(service, "clean up", tick)
        for tick in range(now - now % 2 - 600, now + 2, 2)
    ]
    places = [ids.index(line["id"]) for line in clocks.lines("clean")]
    assert sorted(places) == list(range(min(places), max(places) + 1))

    listed = clocks.listed()
    assert {name: each["runs"] for name, each in listed.items()} == {
        "wind_clock": "stage wind_clock",
        "beat:clean up": "task clocks.clean",
    }
    assert all(each["state"] == "active" and each["last_tick"] for each in listed.values())

    clocks.run(*SCHEDULES, "pause", "wind_clock")
    assert clocks.listed()["wind_clock"]["state"] == "paused"
    clocks.wait_more("clean", 4)
    paused = len(clocks.lines("wind"))
    clocks.wait_more("clean", 2)
    assert len(clocks.lines("wind")) == paused
    clocks.run(*SCHEDULES, "resume", "wind_clock")
    clocks.wait_more("wind", 2)

    beat = clocks.start("beat", "--schedule", str(clocks.folder / "beat"))
    assert beat.wait(PATIENCE) == 2
    assert "would send each task a second time" in (clocks.folder / "log").read_text()

    bridge.terminate()
    assert bridge.wait(PATIENCE) == 0
    assert clocks.listed()["wind_clock"]["state"] == "unattended"


def test_an_app_without_stages_needs_a_bridge_for_its_entries_only(clocks: Clocks) -> None:
    """It consumes nothing. celery beat sends them where the bridges are told not to."""
    clocks.environment["CLOCKS_PLAIN"] = "yes"
    clocks.start("worker", "-c", "1", "--loglevel", "INFO")
    bridge = clocks.start("bridge")
    clocks.wait_more("clean")
    assert list(clocks.listed()) == ["beat:clean up"]
    bridge.terminate()
    assert bridge.wait(PATIENCE) == 0

    clocks.start("beat", "--schedule", str(clocks.folder / "beat"), BRIDGE_BEAT="false")
    clocks.wait_more("clean")
