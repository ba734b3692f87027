"""The limits of what a bridge takes: what it holds, what a crash would repeat, how deep the queues are.

A limit is usually exceeded for a moment, and nothing is polled until then: a pause makes Kafka's client throw
away what it has fetched. What lasts longer is paused while polling goes on, so that the bridge stays a member
of its group.
"""

import threading
import time
from collections.abc import Callable, Iterable, Sequence

import structlog

from pipeline.bridge.offsets import OffsetTracker
from pipeline.errors import ServiceError
from pipeline.kafka import EventConsumer, Partition
from pipeline.sqs import SqsQueue
from pipeline.telemetry import metrics

log = structlog.get_logger(__name__)

#: The most events and bytes to hold. A hundred are in flight at a thousand events/s and a round trip of
#: 100 ms; the rest is for bursts and for groups whose events must wait for one another.
MAX_EVENTS, MAX_BYTES = 2_000, 64 * 1024 * 1024

#: Events, and seconds, between the committed offset of a partition and its newest event taken: what a crash
#: repeats. A replay after 5 minutes would not be dropped as a duplicate by SQS.
MAX_SPAN, MAX_AGE = 1_000, 60.0

#: Messages waiting and in flight in a FIFO queue. Above 120,000 in flight, SQS shows no other group.
MAX_DEPTH = 100_000

#: Seconds between two requests for the depth of the queues.
DEPTH_EVERY = 10.0

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
        queues: Sequence[SqsQueue],
        tracker: OffsetTracker,
        usage: BufferUsage,
        max_age: float = MAX_AGE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``max_age``: seconds between the committed offset and the newest event taken."""
        self._queues = queues
        self._max_age = max_age
        self._tracker = tracker
        self._usage = usage
        self._clock = clock
        self._paused: set[Partition] = set()
        #: Since when a partition that is not paused is over its limit.
        self._full_since: float | None = None
        self._depth = 0.0
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="bridge-depth", daemon=True)

    def start(self) -> None:
        """Begin to ask for the depth of the queues."""
        self._thread.start()

    def close(self) -> None:
        """Stop asking."""
        self._closed.set()

    def apply(self, consumer: EventConsumer) -> None:
        """Pause partitions over their limit for too long, resume those well below it."""
        everywhere = max(self._usage.share(), self._depth)
        over = {
            partition
            for partition in self._tracker.partitions()
            if max(everywhere, self._share(partition)) >= (RESUME_AT if partition in self._paused else 1.0)
        }
        if well_below := self._paused - over:
            consumer.resume(well_below)
            self._paused -= well_below
        full = over - self._paused
        if not full:
            self._full_since = None
        elif self._full_since is None:
            self._full_since = self._clock()
        elif self._clock() - self._full_since >= PAUSE_AFTER:
            consumer.pause(full)
            self._paused |= full
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

    def measure_depth(self) -> None:
        """Ask the queues how deep they are."""
        try:
            depths = [queue.depth() for queue in self._queues]
        except ServiceError as error:
            # Only a guard: sending meets the same error, and decides.
            log.warning("bridge.depth_unknown", error=str(error))
            return
        share = max((depth.available + depth.in_flight for depth in depths), default=0) / MAX_DEPTH
        if share >= 1 > self._depth:
            log.warning("bridge.queue_deep", messages=round(share * MAX_DEPTH))
        self._depth = share

    def _share(self, partition: Partition) -> float:
        return max(self._tracker.span(partition) / MAX_SPAN, self._tracker.age(partition) / self._max_age)

    def _watch(self) -> None:
        while not self._closed.wait(DEPTH_EVERY):
            try:
                self.measure_depth()
            except Exception:
                # It must go on: a queue that was deep would pause the bridge for ever.
                log.exception("bridge.depth_failed")
