"""The worker benchmark: how fast a full queue is emptied, at a distance, by ours and by peers in turn."""

from collections.abc import Iterator, Sequence
from functools import partial

from benchmarks.compare import able, measure_peer, rounds
from benchmarks.peer import Working
from benchmarks.peers import events_off, one_group, ours, raw, redis, stock
from benchmarks.rows import Row
from pipeline.services.environment import Services

PEERS: dict[str, Working] = {
    "ours": ours,
    "events-off": events_off,
    "one-group": one_group,
    "stock": stock,
    "raw": raw,
    "redis": redis,
}

#: Maximum tasks for peers that are slow at a distance, so that a round takes half a minute.
MOST = {"stock": 500, "redis": 500, "one-group": 300}


def run(
    services: Services, names: Sequence[str], rtts: Sequence[float], tasks: int, repeat: int
) -> Iterator[list[Row]]:
    """Return, for each round trip, the rows of all peers that can run."""
    peers = able([PEERS[name] for name in names])
    for rtt in rtts:
        yield rounds(
            rtt,
            repeat,
            [
                partial(
                    measure_peer,
                    *("worker", "task", services, peer, rtt),
                    min(tasks, MOST.get(peer.name, tasks)),
                    peer.working,
                )
                for peer in peers
            ],
        )
