"""The limits of what a bridge takes: what it holds, what a crash would repeat, how deep its queues are.

A limit is usually exceeded for a moment, and nothing is polled until then: a pause makes Kafka's client throw
away what it has fetched. What lasts longer is paused while polling goes on, so that the bridge stays a member
of its group.
"""

import threading
import time
from collections.abc import Callable, Collection, Iterable

from pipeline.bridge.offsets import OffsetTracker
from pipeline.kafka import EventConsumer, Partition
from pipeline.telemetry import metrics

#: The most events and bytes to hold. A hundred are in flight at a thousand events/s and a round trip of
#: 100 ms; the rest is for bursts and for groups whose events must wait for one another.
MAX_EVENTS, MAX_BYTES = 2_000, 64 * 1024 * 1024

#: Events, and seconds, between the committed offset of a partition and its newest event taken: what a crash
#: repeats. A replay after 5 minutes would not be dropped as a duplicate by SQS.
MAX_SPAN, MAX_AGE = 1_000, 60.0

#: Seconds over a limit after which a partition is paused. So long may a rebalance wait for the next poll, and
#: the other partitions for one that is stuck. Once resumed, the client took up to 0.7 s to fetch again
#: (measured), in which 500 events a second and more are sent from what is held.
PAUSE_AFTER = 0.5

#: What is paused is resumed when it is down to this share of its limit, so that it does not flutter.
RESUME_AT = 0.5


class BufferUsage:
    """Counts the events, and their bytes, that a bridge holds between Kafka and SQS. Threads share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._events = 0
        self._bytes = 0
        #: Events settled so far.
        self.passed = 0

    def add(self, size: int) -> None:
        """Count an event of ``size`` bytes that was taken."""
        with self._lock:
            self._events += 1
            self._bytes += size

    def remove(self, size: int) -> None:
        """Count one that is settled."""
        with self._lock:
            self._events -= 1
            self._bytes -= size
            self.passed += 1
        metrics.EVENTS_PASSED.inc()

    def held(self) -> tuple[int, int]:
        """Return the number of events held, and their bytes."""
        with self._lock:
            return self._events, self._bytes

    def share(self) -> float:
        """Return how full it is: 1 at the limit of either."""
        with self._lock:
            return max(self._events / MAX_EVENTS, self._bytes / MAX_BYTES)


class Throttle:
    """Pauses and resumes the partitions of a consumer."""

    def __init__(
        self,
        deep_topics: Callable[[], Collection[str]],
        tracker: OffsetTracker,
        usage: BufferUsage,
        max_age: float = MAX_AGE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``deep_topics`` returns the Kafka topics that feed a queue that is too deep.

        ``max_age``: seconds between the committed offset and the newest event taken.
        """
        self._deep_topics = deep_topics
        self._max_age = max_age
        self._tracker = tracker
        self._usage = usage
        self._clock = clock
        self._paused: set[Partition] = set()
        #: Since when a partition that is not paused is over its limit.
        self._full_since: float | None = None

    def apply(self, consumer: EventConsumer) -> None:
        """Pause partitions that are over a limit for too long, resume those well below all of them.

        A deep queue takes minutes to empty, so the partitions that feed it are paused at once.
        """
        partitions, topics = self._tracker.partitions(), self._deep_topics()
        deep = {partition for partition in partitions if partition.topic in topics}
        held = self._usage.share()
        over = deep | {
            partition
            for partition in partitions
            if max(held, self._share(partition)) >= (RESUME_AT if partition in self._paused else 1.0)
        }
        if well_below := self._paused - over:
            consumer.resume(well_below)
            self._paused -= well_below
        self._pause(consumer, deep - self._paused)
        full = over - self._paused
        if not full:
            self._full_since = None
        elif self._full_since is None:
            self._full_since = self._clock()
        elif self._clock() - self._full_since >= PAUSE_AFTER:
            self._pause(consumer, full)
            self._full_since = None

    @property
    def full(self) -> bool:
        """Whether nothing more may be polled now."""
        return self._full_since is not None

    def forget(self, partitions: Iterable[Partition]) -> None:
        """Drop the pause state of partitions that come or go; new partitions start unpaused."""
        self._paused.difference_update(partitions)

    def wants_commit(self) -> bool:
        """Whether a partition is half way to its span: committing now spares it the pause."""
        return any(self._tracker.span(p) >= MAX_SPAN * RESUME_AT for p in self._tracker.partitions())

    def _pause(self, consumer: EventConsumer, partitions: Collection[Partition]) -> None:
        if partitions:
            consumer.pause(partitions)
            self._paused.update(partitions)

    def _share(self, partition: Partition) -> float:
        return max(self._tracker.span(partition) / MAX_SPAN, self._tracker.age(partition) / self._max_age)
