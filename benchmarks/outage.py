"""The outage benchmark: the bridge while SQS is away under full load, and afterwards."""

import time
from typing import Any

import click

from benchmarks.compare import SQS_SERVERS, log_file
from benchmarks.fill import emit_all, middle_events
from benchmarks.ground import make_ground
from benchmarks.measure import BenchmarkError, Watched, spawn, tail
from benchmarks.peer import queue_depth
from benchmarks.peers.ours import BRIDGE
from benchmarks.proxy import run_proxy
from pipeline.services.environment import Services

#: The share of events that is done when SQS goes down.
DOWN_AT = 0.2
#: Seconds for the bridge to get so far, and to finish after the outage.
TIMEOUT = 180.0


def run(services: Services, events: int, seconds: float) -> list[dict[str, Any]]:
    """Return one row: the bridge's memory before, during and after, and how soon it continued."""
    ground = make_ground(services)
    emit_all(ground, middle_events(ground, events))
    done = queue_depth(ground)
    with (
        run_proxy(ground.servers, 0) as proxy,
        log_file() as log,
        spawn(BRIDGE, ground.environment_through(proxy.urls), log) as process,
    ):
        watched = Watched([process.pid])

        def wait_for(count: int) -> float:
            began = time.monotonic()
            while done() < count:
                watched.memory()
                if process.poll() is not None or time.monotonic() - began > TIMEOUT:
                    raise BenchmarkError(f"{done()} of {count} events are through:\n{tail(log)}")
                time.sleep(0.05)
            return time.monotonic() - began

        wait_for(round(DOWN_AT * events))
        before, through = watched.memory(), done()
        proxy.down("sqs")
        click.echo(f"{through:,} of {events:,} events are through; SQS is away for {seconds:g} s", err=True)
        _sit_out(watched, seconds)
        during = watched.memory()
        proxy.up("sqs")
        # None is left if all were through before it went down, as with few events on a busy machine.
        resumed = wait_for(min(done() + 1, events))
        rest = wait_for(events)
        after, peak = watched.memory(), watched.peak
    return [
        {
            "benchmark": "outage",
            "peer": "ours",
            "services": SQS_SERVERS[services.name],
            "events": events,
            "seconds_away": seconds,
            "memory_mb_before": round(before, 1),
            "memory_mb_at_its_end": round(during, 1),
            "memory_mb_afterwards": round(after, 1),
            "peak_memory_mb": round(peak, 1),
            "seconds_until_it_went_on": round(resumed, 2),
            "seconds_until_all_were_through": round(resumed + rest, 2),
        }
    ]


def _sit_out(watched: Watched, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        watched.memory()
        time.sleep(0.5)
