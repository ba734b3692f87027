"""When to stop fetching: too much held, too much that a crash would repeat, or queues too deep.

Partitions are paused while polling goes on, so the bridge stays a member of its group.
"""

import threading
from collections.abc import Iterable, Sequence

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

#: What is paused is resumed when it is down to this share of its limit, so that it does not flutter.
RESUME_AT = 0.5


class Throttle:
    """Pauses and resumes the partitions of a consumer."""

    def __init__(
        self, queues: Sequence[SqsQueue], tracker: OffsetTracker, load: Load, max_age: float = MAX_AGE
    ) -> None:
        """``max_age``: seconds between the committed offset and the newest event taken."""
        self._queues = queues
        self._max_age = max_age
        self._tracker = tracker
        self._load = load
        self._paused: set[Partition] = set()
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
        """Pause what is over its limits, resume what is well below them."""
        everywhere = max(self._load.share(), self._depth)
        paused = {
            partition
            for partition in self._tracker.partitions()
            if max(everywhere, self._share(partition)) >= (RESUME_AT if partition in self._paused else 1.0)
        }
        if paused == self._paused:
            return
        consumer.pause(paused - self._paused)
        consumer.resume(self._paused - paused)
        self._paused = paused

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
            self.look()

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
