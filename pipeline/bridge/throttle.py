"""When to take no more: too much held, too much that a crash would repeat, or queues too deep.

Usually that is over in a moment, and nothing is polled until then: a pause makes Kafka's client throw away
what it has fetched. What lasts longer is paused while polling goes on, so the bridge stays a member of its
group.
"""

import threading
import time
from collections.abc import Callable, Iterable, Sequence

import structlog

from consumers.load import Load
from consumers.offsets import OffsetTracker
from pipeline.errors import ServiceError
from pipeline.kafka import EventConsumer, Partition
from pipeline.sqs import SqsQueue

log = structlog.get_logger(__name__)

#: Events, and seconds, between the committed offset of a partition and its newest event taken: what a crash
#: repeats. A replay after 5 minutes would not be dropped as a duplicate by SQS.
MAX_SPAN, MAX_AGE = 1_000, 60.0

#: Messages waiting and in flight in a FIFO queue. Above 120,000 in flight, SQS shows no other group.
MAX_DEPTH = 100_000

#: Seconds between two looks at the queues.
DEPTH_EVERY = 10.0

#: Seconds over a limit after which a partition is paused. So long may a rebalance wait for the next poll, and
#: the other partitions for one that is stuck. Once resumed, the client took up to 0.7 s to fetch again
#: (measured), in which 500 events a second and more are sent from what is held.
PAUSE_AFTER = 0.5

#: What is paused is resumed when it is down to this share of its limit, so that it does not flutter.
RESUME_AT = 0.5


class Throttle:
    """Pauses and resumes the partitions of a consumer."""

    def __init__(
        self,
        queues: Sequence[SqsQueue],
        tracker: OffsetTracker,
        load: Load,
        max_age: float = MAX_AGE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``max_age``: seconds between the committed offset and the newest event taken."""
        self._queues = queues
        self._max_age = max_age
        self._tracker = tracker
        self._load = load
        self._clock = clock
        self._paused: set[Partition] = set()
        #: Since when something that is not paused is over its limit.
        self._full_since: float | None = None
        self._depth = 0.0
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="bridge-depth", daemon=True)

    def start(self) -> None:
        """Begin to look at the queues."""
        self._thread.start()

    def close(self) -> None:
        """Stop looking."""
        self._closed.set()

    def apply(self, consumer: EventConsumer) -> None:
        """Pause what was over its limit for too long, resume what is well below."""
        everywhere = max(self._load.share(), self._depth)
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
        """These come or go: what comes is not paused."""
        self._paused.difference_update(partitions)

    def wants_commit(self) -> bool:
        """Whether a partition is half way to its span: committing now spares it the pause."""
        return any(self._tracker.span(p) >= MAX_SPAN * RESUME_AT for p in self._tracker.partitions())

    def _share(self, partition: Partition) -> float:
        return max(self._tracker.span(partition) / MAX_SPAN, self._tracker.age(partition) / self._max_age)

    def _watch(self) -> None:
        while not self._closed.wait(DEPTH_EVERY):
            try:
                self.look()
            except Exception:
                # The next look is made all the same: a queue that was deep would pause the bridge for ever.
                log.exception("bridge.depth_failed")

    def look(self) -> None:
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
