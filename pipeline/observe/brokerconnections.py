"""Connections of a service's processes to the broker that has most of them: it leads the control topics."""

from typing import Final

#: Connections of a worker and of a bridge to that broker. Counted on a cluster of one broker.
WORKER, BRIDGE = 4, 2

#: The setting of authentication with which MSK limits the connections to a broker.
LIMITED: Final = "AWS_MSK_IAM"


def connections_of(workers: float, bridges: float) -> float:
    """Return how many connections so many workers and bridges hold to that broker."""
    return workers * WORKER + bridges * BRIDGE
