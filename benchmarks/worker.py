"""The worker benchmark: how fast a full queue is worked off, at a distance, ours and peers in turn."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import click

from benchmarks.ground import make_ground
from benchmarks.measure import started, watch
from benchmarks.peer import Peer
from benchmarks.peers import ours, raw, redis, stock
from benchmarks.proxy import proxied
from benchmarks.rows import WorkerRow, compared, medians
from pipeline.services.environment import Services

PEERS: dict[str, ModuleType] = {peer.name: peer for peer in (ours, stock, raw, redis)}

#: SQS's server and DynamoDB's, by the name of the set.
SERVERS = {"embedded": "ministack", "local": "ElasticMQ, DynamoDB Local"}

#: Tasks of a slow peer: a stock worker at 10 ms gets through these in a quarter of a minute.
FEW = 1000


def run(
    services: Services, names: Sequence[str], rtts: Sequence[float], tasks: int, repeat: int
) -> Iterator[list[WorkerRow]]:
    """For each round trip the rows of all peers: medians of ``repeat`` rounds in which they take turns."""
    peers = [PEERS[name] for name in names if _can_run(PEERS[name])]
    for rtt in rtts:
        rounds = []
        for number in range(repeat):
            click.echo(f"round trip {rtt:g} ms, round {number + 1} of {repeat}", err=True)
            rounds.append(compared([measure(services, peer, rtt, tasks) for peer in peers]))
        yield medians(rounds)


def measure(services: Services, peer: Peer, rtt: float, tasks: int) -> WorkerRow:
    """One peer, once, from a full queue to an empty one."""
    if peer.name in ("stock", "redis"):
        tasks = min(tasks, FEW)
    ground = make_ground(services)
    with peer.ready(ground, tasks) as ready, proxied(ready.servers, rtt) as proxy, _log() as log:
        counted = next(iter(ready.servers))
        with started(ready.command, ready.environment(proxy.urls), log) as process:
            run = watch(process, tasks, ready.remaining, lambda: proxy.counts()[counted].total, log)
    middle = run.middle
    return WorkerRow(
        benchmark="worker",
        peer=peer.name,
        rtt_ms=float(rtt),
        services="redis-server" if peer.name == "redis" else SERVERS[services.name],
        tasks=tasks,
        tasks_per_second=middle.per_second,
        # Redis's protocol is not HTTP: nothing is counted there.
        requests_per_task=middle.requests_per_task if peer.name != "redis" else None,
        cpu_ms_per_task=middle.cpu_ms_per_task,
        peak_memory_mb=run.peak_memory_mb,
    )


@contextmanager
def _log() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "log"


def _can_run(peer: Peer) -> bool:
    reason = peer.missing()
    if reason is not None:
        click.echo(f"{peer.name} is left out: {reason}", err=True)
    return reason is None
