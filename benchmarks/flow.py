"""The flow benchmark: whole jobs, from their first event to their last task; Celery's peers have canvas."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

from benchmarks.compare import SQS_SERVERS, able, rounds
from benchmarks.ground import make_ground
from benchmarks.measure import STUCK_AFTER, BenchmarkError, Process, Watched, spawn, tail
from benchmarks.peer import Flow, Flowing, Shape
from benchmarks.peers import ours, redis, stock_canvas
from benchmarks.proxy import Proxy, run_proxy
from benchmarks.rows import Measurement, rounded
from benchmarks.stages import FLOW_PARTS, begin, double, end, finish
from pipeline.services.environment import Services

PEERS: dict[str, Flowing] = {peer.name: peer for peer in (ours, redis, stock_canvas)}

SHAPES = {
    shape.name: shape
    for shape in (
        # Run; split, its parts, gather; run.
        Shape(
            name="split",
            tasks=1 + 1 + FLOW_PARTS + 1 + 1,
            first=begin,
            last=finish,
            chain=("begin", "split", "finish"),
        ),
        Shape(name="stages", tasks=3, first=double, last=end, chain=("begin", "middle", "finish")),
    )
}

#: Maximum jobs of the peers that wait for each answer, at a distance: so that a round takes half a minute.
MOST = {"redis": 60, "stock": 60}

#: Jobs before the measurement: they warm up processes, pools and connections.
WARM_UP = 20

#: Seconds between two looks at the worker's log.
EVERY = 0.05


@dataclass(frozen=True, kw_only=True)
class FlowRow(Measurement):
    """A measurement of whole jobs; ``per_second`` are jobs."""

    FIGURES: ClassVar[Sequence[str]] = (*Measurement.FIGURES, "cpu_ms", "requests", "units")

    shape: Shape
    #: CPU milliseconds a job by process: the worker's "parent", its "children", the "bridge".
    cpu_ms: Mapping[str, float]
    #: Requests to AWS a job, by operation.
    requests: Mapping[str, float]
    #: DynamoDB write units a job, by operation.
    units: Mapping[str, float]

    def named(self) -> dict[str, Any]:
        """Return the row under its JSON names."""
        return {
            **self._names(),
            "jobs": self.count,
            "runs": self.runs,
            "jobs_per_second": round(self.per_second, 1),
            "tasks_per_second": round(self.per_second * self.shape.tasks, 1),
            "parent_ms": rounded(self.cpu_ms["parent"]),
            "children_ms": rounded(self.cpu_ms["children"]),
            "bridge_ms": rounded(self.cpu_ms.get("bridge")),
            "cpu_ms_per_job": rounded(sum(self.cpu_ms.values())),
            "requests_per_job": rounded(sum(self.requests.values())),
            "units_per_job": rounded(sum(self.units.values())),
            "ours_is": rounded(self.ours_is),
        }

    def calls(self) -> list[dict[str, Any]]:
        """Return a row for each AWS operation."""
        return [
            {
                **self._names(),
                "operation": operation.rpartition(".")[2],
                "requests_per_job": rounded(self.requests[operation]),
                "units_per_job": rounded(self.units.get(operation, 0)),
            }
            for operation in sorted(self.requests)
            if self.requests[operation]
        ]

    def _names(self) -> dict[str, Any]:
        return {
            "benchmark": f"flow, {self.shape.name}",
            "services": self.services,
            "peer": self.peer,
            "rtt_ms": self.rtt_ms,
        }


def run(
    services: Services,
    names: Sequence[str],
    shapes: Sequence[str],
    rtts: Sequence[float],
    jobs: int,
    repeat: int,
) -> Iterator[list[FlowRow]]:
    """Return, for each shape and round trip, the rows of all peers that can run."""
    peers = able([PEERS[name] for name in names])
    for shape in (SHAPES[name] for name in shapes):
        for rtt in rtts:
            measures = [
                partial(measure, services, peer, shape, rtt, _most(peer, rtt, jobs)) for peer in peers
            ]
            yield rounds(rtt, repeat, measures)


def _most(peer: Flowing, rtt: float, jobs: int) -> int:
    return min(jobs, MOST.get(peer.name, jobs)) if rtt else jobs


def measure(services: Services, peer: Flowing, shape: Shape, rtt: float, jobs: int) -> FlowRow:
    """Run ``jobs`` jobs once, all submitted at once; the clock runs from then to the end of the last."""
    ground = make_ground(services)
    with (
        peer.flowing(ground, shape) as flow,
        run_proxy(flow.servers, rtt, count_units=True) as proxy,
        running(flow, flow.environment(proxy.urls)) as peers,
    ):
        flow.submit(WARM_UP)
        peers.wait(WARM_UP)
        began, before = time.monotonic(), _spent(peers, proxy)
        flow.submit(jobs)
        peers.wait(WARM_UP + jobs)
        seconds, after = time.monotonic() - began, _spent(peers, proxy)
    cpu_ms, requests, units = (
        {name: (value - then.get(name, 0)) / jobs for name, value in now.items()}
        for now, then in zip(after, before, strict=True)
    )
    return FlowRow(
        peer=peer.name,
        rtt_ms=rtt,
        services=SQS_SERVERS[services.name],
        count=jobs,
        per_second=jobs / seconds,
        shape=shape,
        cpu_ms=cpu_ms,
        requests=requests,
        units=units,
    )


def _spent(peers: "Running", proxy: Proxy) -> tuple[Mapping[str, float], ...]:
    """Return CPU milliseconds by process, requests and units by operation, each since the start."""
    counts = proxy.counts().values()
    requests = {name: number for each in counts for name, number in each.requests.items()}
    units = {name: number for each in counts for name, number in each.units_of.items()}
    return peers.cpu_ms(), requests, units


class Running:
    """The running processes of a peer, watched through the worker's log."""

    def __init__(self, flow: Flow, processes: Mapping[str, Process], logs: Mapping[str, Path]) -> None:
        self._flow = flow
        self._processes = processes
        self._logs = logs
        self._watched = {name: Watched([process.pid]) for name, process in processes.items()}
        self._log = logs["worker"].open("rb")
        self._rest = b""
        self._tasks = 0
        self._jobs = 0

    def wait(self, jobs: int) -> None:
        """Return once that many jobs are done since the start; raise when no task ends any more."""
        seen, progress_at = self._tasks, time.monotonic()
        while self._jobs < jobs:
            self._read()
            for name, process in self._processes.items():
                if process.poll() is not None:
                    raise BenchmarkError(f"the {name} ended:\n{tail(self._logs[name])}")
            if self._tasks > seen:
                seen, progress_at = self._tasks, time.monotonic()
            if time.monotonic() - progress_at > STUCK_AFTER:
                logs = "\n".join(map(tail, self._logs.values()))
                raise BenchmarkError(
                    f"{self._jobs} of {jobs} jobs done, then no task for {STUCK_AFTER:g} s:\n{logs}"
                )
            time.sleep(EVERY)

    def cpu_ms(self) -> dict[str, float]:
        """Return the CPU milliseconds of each process; of the worker those of its parent and its children."""
        spent = {name: 1000 * watched.cpu() for name, watched in self._watched.items()}
        parent = 1000 * self._watched["worker"].parents_cpu()
        return {"parent": parent, "children": spent.pop("worker") - parent, **spent}

    def _read(self) -> None:
        *lines, self._rest = (self._rest + self._log.read()).split(b"\n")
        self._tasks += sum(all(text in line for text in self._flow.task_done) for line in lines)
        self._jobs += sum(all(text in line for text in self._flow.job_done) for line in lines)

    def close(self) -> None:
        """Close the log."""
        self._log.close()


@contextmanager
def running(flow: Flow, environment: Mapping[str, str]) -> Iterator[Running]:
    """Run the processes of a peer for the block."""
    with TemporaryDirectory() as folder, ExitStack() as stack:
        logs = {name: Path(folder) / name for name in flow.commands}
        processes = {
            name: stack.enter_context(spawn(command, environment, logs[name]))
            for name, command in flow.commands.items()
        }
        with closing(Running(flow, processes, logs)) as peers:
            yield peers
