"""The flow benchmark: its jobs are those that the bridge opens, and it ends when nothing moves."""

import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from benchmarks import flow
from benchmarks.fill import first_event
from benchmarks.flow import SHAPES, FlowRow, Running
from benchmarks.measure import BenchmarkError, spawn
from benchmarks.peer import Flow
from benchmarks.rows import medians

QUIET = "import time; time.sleep(60)"


def _running(folder: Path, process: "subprocess.Popen[bytes]") -> Running:
    peer = Flow(
        commands={},
        servers={},
        environment=lambda _: {},
        submit=lambda _: None,
        task_done=(b"done",),
        job_done=(b"done", b"last"),
    )
    return Running(peer, {"worker": process}, {"worker": folder / "log"})


def test_a_benchmark_waits_for_the_job_that_the_bridge_opens() -> None:
    """The bridge ignores the job that an event from outside names: it derives the id from the event's."""
    event = first_event("bench-numbers", b"1")
    assert event.job_in("any", "bench-numbers") == (event.job_id, True)


def test_a_median_of_mappings_is_one_of_each_key() -> None:
    """An operation that a round did not use counts as 0 there."""
    rows = [
        FlowRow(
            peer="ours",
            rtt_ms=0,
            services="ministack",
            count=10,
            per_second=rate,
            shape=SHAPES["split"],
            cpu_ms={"parent": rate},
            requests=requests,
            units={},
        )
        for rate, requests in ((1, {"a": 5.0}), (2, {"b": 7.0}), (9, {"a": 1.0, "b": 3.0}))
    ]
    (row,) = medians([[row] for row in rows])
    assert (row.per_second, row.runs, row.requests) == (2, 3, {"a": 1.0, "b": 3.0})


def test_a_job_counts_when_its_last_task_is_done(tmp_path: Path) -> None:
    """Lines of other tasks are progress only, and a line counts once all of it is written."""
    script = f"print('done one\\ndone last', end='', flush=True); print(flush=True); {QUIET}"
    command = (sys.executable, "-c", script)
    with spawn(command, {}, tmp_path / "log") as process, closing(_running(tmp_path, process)) as running:
        running.wait(1)
        assert running.cpu_ms().keys() == {"parent", "children"}


def test_a_peer_that_does_nothing_ends_the_benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error has the number of jobs done and the end of the log."""
    monkeypatch.setattr(flow, "STUCK_AFTER", 0.2)
    command = (sys.executable, "-c", f"print('waiting', flush=True); {QUIET}")
    with (
        spawn(command, {}, tmp_path / "log") as process,
        closing(_running(tmp_path, process)) as running,
        pytest.raises(BenchmarkError, match=r"0 of 3 jobs done, then no task for 0\.2 s"),
    ):
        running.wait(3)


def test_a_peer_that_ends_early_ends_the_benchmark(tmp_path: Path) -> None:
    """The error names the process and has its last lines."""
    command = (sys.executable, "-c", "raise SystemExit('no broker')")
    with (
        spawn(command, {}, tmp_path / "log") as process,
        closing(_running(tmp_path, process)) as running,
        pytest.raises(BenchmarkError, match="the worker ended:\nno broker"),
    ):
        running.wait(1)
