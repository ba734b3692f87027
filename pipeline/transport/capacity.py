"""The capacity of a worker: how many messages it can use, by how fast it has finished others."""

import time
from typing import Final

#: How far ahead messages are received: what the worker gets through in this many seconds. Measured:
#: a receive takes 10 to 30 ms at 10 ms round trip, so a pool of tiny tasks stays full, while a worker
#: on hour-long tasks holds nothing that waits.
RECEIVE_AHEAD: Final = 0.25
#: Polls of several queues may bring more than that together. Messages that would wait longer than this
#: (seconds) are left to other workers.
WAIT_AT_MOST: Final = 5.0


class Capacity:
    """Counts finished runs; their rate, over about the last second, says what the worker can use."""

    WINDOW = 0.5

    def __init__(self) -> None:
        self._since = time.monotonic()
        self._count = 0
        self._rate = 0.0

    def run_finished(self) -> None:
        """Count one more finished run."""
        self._count += 1

    def rate(self) -> float:
        """Return the runs finished per second."""
        elapsed = time.monotonic() - self._since
        if elapsed >= self.WINDOW:
            self._rate = (self._rate + self._count / elapsed) / 2
            self._since, self._count = time.monotonic(), 0
        return self._rate

    def wanted(self, slots: int) -> int:
        """Return how many messages to hold, so that so many slots stay full."""
        return max(slots, int(self.rate() * RECEIVE_AHEAD))

    def most(self, slots: int) -> int:
        """Return how many messages may be held before the rest goes back to other workers."""
        return max(slots, int(self.rate() * WAIT_AT_MOST))
