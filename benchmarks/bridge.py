"""The bridge benchmark: how fast events become tasks on SQS, ours and what else sends to SQS in turn."""

from collections.abc import Iterator, Sequence
from functools import partial

from benchmarks.compare import able, measured, rounds
from benchmarks.peer import Sending
from benchmarks.peers import ours, raw, stock, two
from benchmarks.rows import Row
from pipeline.services.environment import Services

PEERS: dict[str, Sending] = {"ours": ours, "ours-2": two, "raw": raw, "stock": stock}

#: The most events of peers that are slow at a distance.
MOST = {"stock": 1000}


def run(
    services: Services, names: Sequence[str], rtts: Sequence[float], events: int, repeat: int
) -> Iterator[list[Row]]:
    """For each round trip the rows of all peers that can run."""
    peers = able([PEERS[name] for name in names])
    for rtt in rtts:
        yield rounds(
            rtt,
            repeat,
            [
                partial(
                    measured,
                    *("bridge", "event", services, peer, rtt),
                    min(events, MOST.get(peer.name, events)),
                    peer.sending,
                )
                for peer in peers
            ],
        )
