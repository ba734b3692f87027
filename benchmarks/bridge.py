"""The bridge benchmark: events turned into tasks on SQS in a second, by ours and by peers in turn."""

from collections.abc import Iterator, Sequence
from functools import partial

from benchmarks.compare import able, measure_peer, rounds
from benchmarks.fill import send_all, stage_messages
from benchmarks.ground import make_ground
from benchmarks.peer import Sending
from benchmarks.peers import first, ours, raw, raw_wide, stock, two
from benchmarks.peers.records import avro, json
from benchmarks.rows import Row
from pipeline.services.environment import Services

PEERS: dict[str, Sending] = {peer.name: peer for peer in (ours, first, two, json, avro, raw, raw_wide, stock)}

#: Messages that warm up an SQS server before the measurement.
WARM_UP = 5000

#: Maximum events for peers that are slow at a distance.
MOST = {"stock": 1000}


def run(
    services: Services, names: Sequence[str], rtts: Sequence[float], events: int, repeat: int
) -> Iterator[list[Row]]:
    """Return, for each round trip, the rows of all peers that can run."""
    peers = able([PEERS[name] for name in names])
    # Else the first peer would wait for a server that has compiled nothing yet.
    send_all(make_ground(services).queue, stage_messages(WARM_UP))
    for rtt in rtts:
        yield rounds(
            rtt,
            repeat,
            [
                partial(
                    measure_peer,
                    *("bridge", "event", services, peer, rtt),
                    min(events, MOST.get(peer.name, events)),
                    peer.sending,
                )
                for peer in peers
            ],
        )
