"""The soak benchmark: the growth of the worker's memory over many tasks."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from benchmarks.compare import SQS_SERVERS, log_file
from benchmarks.fill import send_all, stage_messages
from benchmarks.ground import Ground, make_ground
from benchmarks.measure import STUCK_AFTER, BenchmarkError, Watched, spawn, tail
from benchmarks.peers.ours import WORKER
from pipeline.services.environment import Services

#: Tasks sent at once: the queue stays short, because emulators slow down with its length.
WAVE = 2000
#: Memory is measured after this share of the tasks, when caches are full and pools warm.
WARM = 0.1


def run(services: Services, tasks: int) -> list[dict[str, Any]]:
    """Return one row: memory after a tenth of the tasks and at the end."""
    ground = make_ground(services)
    memory: list[tuple[int, float]] = []
    began = time.monotonic()
    with log_file() as log, spawn(WORKER, ground.environment, log) as process:
        watched = Watched([process.pid])
        for done in range(0, tasks, WAVE):
            send_all(ground.queue, stage_messages(min(WAVE, tasks - done)))
            _wait_empty(ground, lambda: process.poll() is not None, log)
            memory.append((min(done + WAVE, tasks), watched.memory()))
            click.echo(f"{memory[-1][0]:,} tasks, {memory[-1][1]:.1f} MB", err=True)
    return [_row(services, memory, time.monotonic() - began)]


def _row(services: Services, memory: list[tuple[int, float]], seconds: float) -> dict[str, Any]:
    tasks = memory[-1][0]
    warm = next(megabytes for done, megabytes in memory if done >= WARM * tasks)
    return {
        "benchmark": "soak",
        "peer": "ours",
        "services": SQS_SERVERS[services.name],
        "tasks": tasks,
        "seconds": round(seconds, 1),
        "memory_mb_after_a_tenth": round(warm, 1),
        "memory_mb_half_way": round(memory[len(memory) // 2][1], 1),
        "memory_mb_at_the_end": round(memory[-1][1], 1),
        "peak_memory_mb": round(max(megabytes for _, megabytes in memory), 1),
    }


def _wait_empty(ground: Ground, ended: Callable[[], bool], log: Path) -> None:
    least, progress_at = WAVE + 1, time.monotonic()
    while (left := _left(ground)) > 0:
        if left < least:
            least, progress_at = left, time.monotonic()
        if ended() or time.monotonic() - progress_at > STUCK_AFTER:
            raise BenchmarkError(f"the worker left {left} tasks of a wave undone:\n{tail(log)}")
        time.sleep(0.1)


def _left(ground: Ground) -> int:
    depth = ground.queue.depth()
    return depth.available + depth.in_flight
