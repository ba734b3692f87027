"""The benchmark of async calls: how many calls that only wait a worker makes in a second."""

from typing import Any

from benchmarks.calling import call
from benchmarks.compare import SQS_SERVERS, log_file
from benchmarks.fill import message_of, send_all
from benchmarks.ground import make_ground
from benchmarks.latency import Results
from benchmarks.measure import spawn
from benchmarks.peers.ours import WORKER
from pipeline.services.environment import Services


def run(services: Services, calls: int, call_seconds: float, concurrency: int) -> list[dict[str, Any]]:
    """Return one row: the rate of ``calls`` calls of ``call_seconds`` each, from first start to last end.

    ``concurrency``: runs at a time of each of the worker's two loop children.
    """
    ground = make_ground(services, call.function.__module__)
    send_all(ground.queue, [message_of(call, b"%g" % call_seconds) for _ in range(calls)])
    environment = {**ground.environment, "ASYNC_CONCURRENCY": str(concurrency)}
    with log_file() as log, spawn(WORKER, environment, log) as worker:
        results = Results(ground, call, {log: worker})
        ends = results.read(calls)
        results.close()
    seconds = max(ends) - min(ends) + call_seconds
    return [
        {
            "benchmark": "asynccalls",
            "peer": "ours",
            "services": SQS_SERVERS[services.name],
            "calls": calls,
            "call_seconds": call_seconds,
            "concurrency": concurrency,
            "seconds": round(seconds, 1),
            "calls_per_second": round(calls / seconds, 1),
        }
    ]
