"""The latency benchmark: the time from an event on Kafka to the start of its task, at a steady rate."""

import json
import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.compare import SQS_SERVERS, log_file
from benchmarks.fill import first_event, record, stage_event
from benchmarks.ground import Ground, make_ground
from benchmarks.measure import BenchmarkError, Process, spawn, tail
from benchmarks.peers.ours import BRIDGE, WORKER
from benchmarks.proxy import run_proxy
from benchmarks.waiting import wait
from pipeline.author.stages import Stage
from pipeline.kafka import EventConsumer, EventProducer
from pipeline.services.environment import Services

#: Events before the measurement: they warm up processes, pools and connections.
WARM_UP = 3_000
#: Seconds for the last events to become tasks.
TIMEOUT = 120.0


def run(services: Services, rate: float, events: int, rtt: float) -> list[dict[str, Any]]:
    """Return one row: how long the tasks of ``events`` events waited for their start."""
    ground = make_ground(services)
    with run_proxy(ground.servers, rtt) as proxy, log_file() as bridge_log, log_file() as log:
        environment = ground.environment_through(proxy.urls)
        bridge_environment = environment | {"TASK_MODULES": wait.function.__module__}
        with (
            spawn(BRIDGE, bridge_environment, bridge_log) as bridge,
            spawn(WORKER, environment, log) as worker,
        ):
            processes = {bridge_log: bridge, log: worker}
            waits = Results(ground, wait, processes)
            # One producer for both: a new one sends nothing for a second, until it has an id of the broker.
            producer = EventProducer(ground.settings, "benchmark")
            emit(ground, producer, rate, WARM_UP)
            waits.read(WARM_UP)
            emitting = threading.Thread(target=emit, args=(ground, producer, rate, events))
            emitting.start()
            seconds = waits.read(events)
            emitting.join()
            producer.close(10.0)
            waits.close()
    return [{"benchmark": "latency", "peer": "ours", **row_of(services, rtt, rate, seconds)}]


def row_of(services: Services, rtt: float, rate: float, seconds: Sequence[float]) -> dict[str, Any]:
    """Return the figures of a measurement."""
    hundredths = statistics.quantiles(seconds, n=100)
    return {
        "services": SQS_SERVERS[services.name],
        "rtt_ms": rtt,
        "events": len(seconds),
        "events_per_second": rate,
        "p50_ms": round(1000 * hundredths[49], 1),
        "p99_ms": round(1000 * hundredths[98], 1),
        "longest_ms": round(1000 * max(seconds), 1),
    }


def emit(ground: Ground, producer: EventProducer, rate: float, count: int) -> None:
    """Send events at a steady rate, in the middle of their jobs, each with the time of its making."""
    began = time.monotonic()
    for number in range(count):
        time.sleep(max(0.0, began + number / rate - time.monotonic()))
        event = first_event(wait.consumes, json.dumps(time.time()).encode())
        producer.produce(record(ground, stage_event(ground, "moment", event)), _raise)


def _raise(error: Exception | None) -> None:
    if error is not None:
        raise error


class Results:
    """A reader of the numbers that a stage emits; ``processes`` make them, each with its log."""

    def __init__(self, ground: Ground, stage: Stage[Any, Any], processes: Mapping[Path, Process]) -> None:
        self._processes = processes
        topic = ground.settings.topic(str(stage.emits))
        nothing: Callable[[object], None] = lambda _: None  # noqa: E731
        self._consumer = EventConsumer(
            ground.settings,
            [topic],
            f"{ground.settings.service_name}-benchmark",
            on_assigned=nothing,
            on_revoked=nothing,
            on_lost=nothing,
        )

    def read(self, count: int) -> list[float]:
        """Return the next ``count`` results."""
        found: list[float] = []
        deadline = time.monotonic() + TIMEOUT + count / 10
        while len(found) < count:
            found += [float(message.value or b"") for message in self._consumer.poll(500, 0.5)]
            for log, process in self._processes.items():
                if process.poll() is not None or time.monotonic() > deadline:
                    raise BenchmarkError(f"{len(found)} of {count} tasks ran:\n{tail(log)}")
        return found

    def close(self) -> None:
        """Close the reader."""
        self._consumer.close()
