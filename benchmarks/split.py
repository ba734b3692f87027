"""The split benchmark: one job with a large split, its end checked from outside."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from benchmarks.compare import SQS_SERVERS, log_file
from benchmarks.fill import emit_all, first_event
from benchmarks.ground import Ground, make_ground
from benchmarks.measure import STUCK_AFTER, BenchmarkError, Process, Watched, spawn, tail
from benchmarks.peers.ours import BRIDGE, WORKER
from benchmarks.proxy import Counts, run_proxy
from benchmarks.stages import moment, square
from pipeline.author.stages import Stage
from pipeline.jobs import JobState, JobStore
from pipeline.kafka import newest_records
from pipeline.services.environment import Services
from pipeline.settings import JOBS_TOPIC
from pipeline.sqs import SqsQueue

#: Seconds between two checks.
EVERY = 1.0
#: Seconds between two lines about progress.
SAY_EVERY = 30.0
#: Maximum events read of a topic: more than one is one too many.
READ = 10


@dataclass(frozen=True, kw_only=True)
class End:
    """A finished job, seen from outside."""

    #: The parts that its split made, and those counted as done.
    parts: int
    done: int
    #: The gather's value of all results, one for each event, and the expected value.
    gathered: Sequence[int]
    expected: int
    #: The number of events that announce the job as complete.
    completions: int
    #: Runs of parts in the worker's log.
    runs: int
    #: Messages left on the queue, and on its dead-letter queue.
    left: int
    dead: int


def flaws(end: End) -> list[str]:
    """Return the defects of an end; none if each part ran and counted once, and all were gathered once."""
    wanted = {
        "parts done": (end.done, end.parts),
        "runs of parts": (end.runs, end.parts),
        "gathered": (list(end.gathered), [end.expected]),
        "job-complete events": (end.completions, 1),
        "tasks left": (end.left, 0),
        "dead letters": (end.dead, 0),
    }
    return [f"{name}: {found}, not {right}" for name, (found, right) in wanted.items() if found != right]


def run(services: Services, parts: int, ordered_parts: int) -> list[dict[str, Any]]:
    """Return a row for a split with parallel parts, and one for an ordered split; 0 parts: without it."""
    # The gather of an ordered split counts the parts that ran after the one before.
    wanted: list[tuple[Stage[Any, Any], int, int]] = [
        (square, parts, sum(number * number for number in range(parts))),
        (moment, ordered_parts, ordered_parts),
    ]
    return [_measure(services, *each) for each in wanted if each[1]]


def _measure(services: Services, stage: Stage[Any, Any], parts: int, expected: int) -> dict[str, Any]:
    ground = make_ground(services)
    event = first_event(stage.consumes, str(parts).encode())
    emit_all(ground, [event])
    with run_proxy(ground.servers, 0, count_units=True) as proxy, log_file() as bridge_log, log_file() as log:
        environment = ground.environment_through(proxy.urls)
        began = time.monotonic()
        with (
            spawn(BRIDGE, environment, bridge_log) as bridge,
            spawn(WORKER, environment, log) as worker,
        ):
            watched = Watched([worker.pid])
            watch = _Watch(ground, str(event.job_id), stage, {bridge_log: bridge, log: worker}, watched)
            watch.wait()
            seconds = time.monotonic() - began
            counts = proxy.counts()
        if found := flaws(watch.end(parts, expected, log)):
            raise BenchmarkError(f"{stage.name} with {parts:,} parts: {'; '.join(found)}")
    return _row(services, stage, parts, seconds, counts) | {
        "most_on_queue": watch.most_on_queue,
        "parent_memory_mb": round(watched.peak, 1),
        "child_memory_mb": round(watched.child_peak, 1),
    }


def _row(
    services: Services, stage: Stage[Any, Any], parts: int, seconds: float, counts: Mapping[str, Counts]
) -> dict[str, Any]:
    units = counts["dynamodb"].units
    return {
        "benchmark": "split",
        "peer": "ours",
        "services": SQS_SERVERS[services.name],
        "ordered": stage.ordered,
        "parts": parts,
        "seconds": round(seconds, 1),
        "parts_per_second": round(parts / seconds, 1),
        "requests_per_part": round(counts["sqs"].total / parts, 3),
        "write_units_per_part": round(units.get("record", 0) / parts, 3),
        "write_units_per_result": round(units.get("result", 0) / parts, 3),
    }


class _Watch:
    """Watches a job from outside until it is complete, and checks what it left."""

    def __init__(
        self,
        ground: Ground,
        job_id: str,
        stage: Stage[Any, Any],
        processes: Mapping[Path, Process],
        watched: Watched,
    ) -> None:
        self.most_on_queue = 0
        self._ground = ground
        self._job_id = job_id
        self._stage = stage
        self._processes = processes
        self._watched = watched
        self._store = JobStore(ground.settings)

    def wait(self) -> None:
        """Wait until the job is complete and its last task deleted; raise when nothing moves."""
        done, progress_at, said_at = (-1, False), time.monotonic(), time.monotonic()
        while True:
            time.sleep(EVERY)
            self._watched.memory()
            self._watched.child_memory()
            depth = self._ground.queue.depth()
            self.most_on_queue = max(self.most_on_queue, depth.available)
            state, parts = self._progress()
            if state is JobState.COMPLETE and depth.available + depth.in_flight == 0:
                return
            now, before = time.monotonic(), done
            done = parts, state is JobState.COMPLETE
            progress_at = progress_at if done == before else now
            for log, process in self._processes.items():
                if process.poll() is not None or state is JobState.FAILED or now - progress_at > STUCK_AFTER:
                    raise BenchmarkError(f"{parts:,} parts are done, the job is {state}:\n{tail(log)}")
            if now - said_at > SAY_EVERY:
                said_at = now
                click.echo(f"{parts:,} parts, {self._watched.memory():.1f} MB", err=True)

    def end(self, parts: int, expected: int, log: Path) -> End:
        """Return what is left of it once all its processes have ended."""
        settings = self._ground.settings
        depth = self._ground.queue.depth()
        dead = SqsQueue(self._ground.client, settings.sqs_dlq_url).depth()
        gathered = newest_records(settings, settings.topic(str(self._stage.emits)), READ)
        return End(
            parts=parts,
            done=self._progress()[1],
            gathered=[json.loads(message.value or b"") for message in gathered],
            expected=expected,
            completions=len(newest_records(settings, settings.topic(JOBS_TOPIC), READ)),
            runs=_runs(log),
            left=depth.available + depth.in_flight,
            dead=dead.available + dead.in_flight,
        )

    def _progress(self) -> tuple[JobState | None, int]:
        """Return the job's state, and how many of its parts are counted as done."""
        found = self._store.listing.progress(self._job_id)
        if found is None:
            return None, 0
        job, stages = found
        return job.state, next(each.done for each in stages if each.stage == self._stage.name)


def _runs(log: Path) -> int:
    """Count the parts that ended well, by the worker's log."""
    with log.open(errors="replace") as lines:
        return sum('"task.done"' in line and '"part"' in line for line in lines)
