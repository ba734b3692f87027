"""The units benchmark: DynamoDB write units for each task, counted while bridge and worker run jobs."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.compare import SQS_SERVERS, log_file
from benchmarks.fill import emit_all, first_event
from benchmarks.ground import make_ground
from benchmarks.measure import BenchmarkError, Process, spawn, tail
from benchmarks.peers.ours import BRIDGE, WORKER
from benchmarks.proxy import run_proxy
from benchmarks.stages import double, square
from pipeline.jobs import JobState, JobStore
from pipeline.services.environment import Services
from pipeline.wire.events import Event

#: Maximum seconds of a measurement.
TIMEOUT = 600.0

#: Tasks of a job that starts with ``double``: the stages of its path.
PATH = 3


def run(services: Services, parts: int, jobs: int) -> list[dict[str, Any]]:
    """Return a row for a job with a split of ``parts``, and one for ``jobs`` of three stages without one."""
    split = [first_event(square.consumes, str(parts).encode())]
    paths = [first_event(double.consumes, str(number).encode()) for number in range(jobs)]
    return [
        _measure(services, f"1 with a split of {parts:,} parts", parts, split),
        _measure(services, f"{jobs:,} of {PATH} stages", PATH * jobs, paths),
    ]


def _measure(services: Services, title: str, tasks: int, first: Sequence[Event]) -> dict[str, Any]:
    ground = make_ground(services)
    emit_all(ground, first)
    with run_proxy(ground.servers, 0, count_units=True) as proxy, log_file() as bridge_log, log_file() as log:
        environment = ground.environment_through(proxy.urls)
        began = time.monotonic()
        with (
            spawn(BRIDGE, environment, bridge_log) as bridge,
            spawn(WORKER, environment, log) as worker,
        ):
            _wait_complete(JobStore(ground.settings), first, {bridge_log: bridge, log: worker})
            seconds = time.monotonic() - began
            units = proxy.counts()["dynamodb"].units
    return _row(services, title, tasks, units, seconds)


def _row(
    services: Services, title: str, tasks: int, units: Mapping[str, float], seconds: float
) -> dict[str, Any]:
    return {
        "benchmark": "units",
        "peer": "ours",
        "services": SQS_SERVERS[services.name],
        "jobs": title,
        "tasks": tasks,
        "write_units_per_task": round(units.get("record", 0) / tasks, 3),
        "write_units_per_result": round(units.get("result", 0) / tasks, 3),
        "seconds": round(seconds, 1),
    }


def _wait_complete(store: JobStore, first: Sequence[Event], processes: Mapping[Path, Process]) -> None:
    deadline = time.monotonic() + TIMEOUT
    left = [str(event.job_id) for event in first]
    while left:
        for log, process in processes.items():
            if process.poll() is not None or time.monotonic() > deadline:
                raise BenchmarkError(f"{len(left)} jobs did not end:\n{tail(log)}")
        job = store.records.get(left[-1])
        if job is None or job.state is JobState.RUNNING:
            time.sleep(0.2)
        elif job.state is JobState.FAILED:
            raise BenchmarkError(f"job {job.job_id} failed")
        else:
            left.pop()
