"""How much the bridge holds: events and their bytes, between Kafka and SQS."""

import threading

from pipeline.telemetry import metrics

#: The most events and bytes to hold. A hundred are in flight at a thousand events/s and a round trip of
#: 100 ms; the rest is for bursts and for groups whose events must wait for one another.
MAX_EVENTS, MAX_BYTES = 2_000, 64 * 1024 * 1024


class Load:
    """Counts what is held. Threads share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._events = 0
        self._bytes = 0
        #: Events let go so far.
        self.passed = 0

    def add(self, size: int) -> None:
        """An event of ``size`` bytes came in."""
        with self._lock:
            self._events += 1
            self._bytes += size

    def remove(self, size: int) -> None:
        """It is out."""
        with self._lock:
            self._events -= 1
            self._bytes -= size
            self.passed += 1
        metrics.EVENTS_PASSED.inc()

    def held(self) -> tuple[int, int]:
        """Events held, and their bytes."""
        with self._lock:
            return self._events, self._bytes

    def share(self) -> float:
        """How full it is: 1 at the limit of either."""
        with self._lock:
            return max(self._events / MAX_EVENTS, self._bytes / MAX_BYTES)
