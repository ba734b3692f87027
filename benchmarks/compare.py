"""Comparison of peers: each once a round, in turn, and the medians of the rounds."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

import click

from benchmarks.ground import Ground, make_ground
from benchmarks.measure import spawn, watch
from benchmarks.peer import Peer, Ready
from benchmarks.proxy import run_proxy
from benchmarks.rows import Measurement, Row, Unit, medians, with_speedup
from pipeline.services.environment import Services

P = TypeVar("P", bound=Peer)
M = TypeVar("M", bound=Measurement)

#: The SQS server of each set of services.
SQS_SERVERS = {"embedded": "ministack", "local": "ElasticMQ"}


def rounds(rtt: float, repeat: int, measure: Sequence[Callable[[], M]]) -> list[M]:
    """Return the medians of ``repeat`` rounds, in each of which every peer is measured once."""
    found = []
    for number in range(repeat):
        click.echo(f"round trip {rtt:g} ms, round {number + 1} of {repeat}", err=True)
        found.append(with_speedup([each() for each in measure]))
    return medians(found)


def able(peers: Sequence[P]) -> list[P]:
    """Return the peers that can run here; print what the others lack."""
    reasons = {peer.name: peer.missing() for peer in peers}
    for name, reason in reasons.items():
        if reason is not None:
            click.echo(f"{name} is left out: {reason}", err=True)
    return [peer for peer in peers if reasons[peer.name] is None]


def measure_peer(
    benchmark: str,
    unit: Unit,
    services: Services,
    peer: Peer,
    rtt: float,
    count: int,
    prepare: Callable[[Ground, int], AbstractContextManager[Ready]],
) -> Row:
    """Measure one peer once: ``prepare`` makes ``count`` tasks or events ready for its command."""
    ground = make_ground(services)
    with prepare(ground, count) as ready, run_proxy(ready.servers, rtt) as proxy, log_file() as log:
        counted = next(iter(ready.servers))
        environment = ready.environment(proxy.urls)
        with ExitStack() as stack:
            processes = [
                stack.enter_context(spawn(ready.command, environment, log)) for _ in range(ready.copies)
            ]
            bringing = stack.enter_context(ThreadPoolExecutor(1)).submit(ready.bring)
            run = watch(processes, count, ready.done, lambda: proxy.counts()[counted].total, log)
            bringing.result()
    return Row(
        benchmark=benchmark,
        peer=peer.name,
        unit=unit,
        rtt_ms=rtt,
        # Redis's protocol is not HTTP: its requests are not counted.
        services=SQS_SERVERS[services.name] if counted == "sqs" else counted,
        count=count,
        per_second=run.middle.per_second,
        requests=run.middle.requests_per_item if counted == "sqs" else None,
        cpu_ms=run.middle.cpu_ms_per_item,
        peak_memory_mb=run.peak_memory_mb,
    )


@contextmanager
def log_file() -> Iterator[Path]:
    """Return the file for a peer's output; it is read when the peer fails."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "log"
