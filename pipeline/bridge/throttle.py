"""The limits of what a bridge takes: what it holds, what a crash would repeat, how deep its queues are.

Events that wait for their jobs to be opened have a limit of their own: a table that takes few new jobs stops
the topics that begin jobs, and never the events of later stages.

A limit is usually exceeded for a moment, and nothing is polled until then: a pause makes Kafka's client throw
away what it has fetched. What lasts longer is paused while polling goes on, so that the bridge stays a member
of its group.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable

from pipeline.bridge.backlog import Backlog
from pipeline.bridge.offsets import OffsetTracker
from pipeline.kafka import EventConsumer, Partition
from pipeline.telemetry import metrics

#: The most events and bytes to hold. A hundred are in flight at a thousand events/s and a round trip of
#: 100 ms; the rest is for bursts and for groups whose events must wait for one another.
MAX_EVENTS, MAX_BYTES = 2_000, 64 * 1024 * 1024

#: Times these limits, at which taking stops in the middle of a poll: a record of others may become many
#: events. Records that are one event each never come so far.
FULL_AT = 2

#: The same of events that wait for their jobs to be opened; they do not count as held meanwhile. So many are
#: opened in a tenth of a second at a round trip of 10 ms.
MAX_OPENING_EVENTS, MAX_OPENING_BYTES = MAX_EVENTS // 2, MAX_BYTES // 2

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
        #: Events that wait for their jobs to be opened, by partition, and the bytes of all of them.
        self._opening: Counter[Partition] = Counter()
        self._opening_bytes = 0
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

    def begin_opening(self, partition: Partition, size: int) -> None:
        """Count an event that was added as one that waits for its job to be opened."""
        self._count_opening(partition, 1, size)

    def end_opening(self, partition: Partition, size: int) -> None:
        """Count one that waits no longer."""
        self._count_opening(partition, -1, -size)

    def held(self) -> tuple[int, int]:
        """Return the number of events held, and their bytes."""
        with self._lock:
            return self._events, self._bytes

    def share(self) -> float:
        """Return how full it is, without the events that wait for their jobs: 1 at the limit of either."""
        with self._lock:
            events = self._events - self._opening.total()
            return max(events / MAX_EVENTS, (self._bytes - self._opening_bytes) / MAX_BYTES)

    def is_full(self) -> bool:
        """Whether so much is held that not even what is polled already may be taken."""
        with self._lock:
            return self._events >= FULL_AT * MAX_EVENTS or self._bytes >= FULL_AT * MAX_BYTES

    def opening(self) -> tuple[float, frozenset[Partition]]:
        """Return how near the events that wait for their jobs are to their limit, and their partitions."""
        with self._lock:
            events, size = self._opening.total(), self._opening_bytes
            return max(events / MAX_OPENING_EVENTS, size / MAX_OPENING_BYTES), frozenset(+self._opening)

    def _count_opening(self, partition: Partition, events: int, size: int) -> None:
        with self._lock:
            self._opening[partition] += events
            self._opening_bytes += size


class Throttle:
    """Pauses and resumes the partitions of a consumer."""

    def __init__(
        self,
        deep_topics: Callable[[], Collection[str]],
        tracker: OffsetTracker,
        usage: BufferUsage,
        max_age: float = MAX_AGE,
        clock: Callable[[], float] = time.monotonic,
        backlog: Backlog | None = None,
    ) -> None:
        """``deep_topics`` returns the Kafka topics that feed a queue that is too deep.

        ``max_age``: seconds between the committed offset and the newest event taken.
        """
        self._deep_topics = deep_topics
        self._backlog = backlog or Backlog()
        self._max_age = max_age
        self._tracker = tracker
        self._usage = usage
        self._clock = clock
        self._paused: set[Partition] = set()
        #: Since when a partition that is not paused is over its limit.
        self._full_since: float | None = None

    def apply(self, consumer: EventConsumer) -> None:
        """Pause partitions that are over a limit for too long, resume those well below all of them.

        A deep queue takes minutes to empty, so the partitions that feed it are paused at once. So are those
        whose events wait for their jobs or schemas: the other ones must not wait for them, not for a moment.
        """
        partitions, topics = self._tracker.partitions(), self._deep_topics()
        opening, beginning = self._usage.opening()
        at_once = {
            partition
            for partition in partitions
            if partition.topic in topics
            or partition in self._backlog.waiting
            or (partition in beginning and opening >= self._limit(partition))
        }
        held = max(self._usage.share(), self._backlog.waiting_bytes / MAX_BYTES)
        over = at_once | {
            partition
            for partition in partitions
            if max(held, self._share(partition)) >= self._limit(partition)
        }
        if well_below := self._paused - over:
            consumer.resume(well_below)
            self._paused -= well_below
        self._pause(consumer, at_once - self._paused)
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

    def _limit(self, partition: Partition) -> float:
        return RESUME_AT if partition in self._paused else 1.0

    def _share(self, partition: Partition) -> float:
        return max(self._tracker.span(partition) / MAX_SPAN, self._tracker.age(partition) / self._max_age)
