"""Stuck partitions: a consumer's client returns nothing of them, although brokers have records.

After a change of leaders librdkafka (2.16: its issues 5430, 5593) may ask the wrong broker for a partition,
or none, for ever. It reports no error, commits, and returns records of the others. Assigning the partition
again keeps the wrong broker: only a new client helps.
"""

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import Future
from typing import Any

from confluent_kafka import Consumer, IsolationLevel, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from pipeline.kafka.positions import TIMEOUT, Partition

#: Seconds between two looks at the partitions that returned nothing since the one before.
LOOK_EVERY = 20.0
#: Seconds for which every look must find the same records unread. A client that works gets them within 15 s
#: (``consumer.ANSWER_TIMEOUT``), also where leaders move. An outage meanwhile makes a look fail, or is
#: shorter than the time between two.
STUCK_AFTER = 60.0


class StuckPartitions:
    """Finds the stuck partitions of one consumer. The thread that polls it calls this.

    A partition counts from the moment all that the client had fetched is returned: behind a full queue it may
    only wait for its turn.
    """

    def __init__(
        self,
        consumer: Consumer,
        admin: Callable[[], AdminClient],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``admin`` returns the client that asks for ends: the consumer may know no broker for them."""
        self._consumer = consumer
        self._admin = admin
        self._clock = clock
        self._next_look = 0.0
        #: Whether all that the client had fetched was returned, at a moment since the last look.
        self._ran_dry = False
        self._paused: set[Partition] = set()
        #: Ends that were reached: no record comes before the next one, only transaction markers.
        self._ends: dict[Partition, int] = {}
        #: The next offset to read of each partition, as the last look found it.
        self._next: dict[Partition, int] = {}
        #: Of each partition whose records do not come, when that was first seen.
        self._unread_since: dict[Partition, float] = {}
        #: The end of each of these partitions, as a broker told it.
        self._told_ends: dict[Partition, int] = {}
        self._asked: Mapping[Partition, Future[Any]] = {}

    def find(self) -> list[Partition]:
        """Return the partitions that are stuck; must be called often. Usually it only looks at the clock."""
        now = self._clock()
        if now >= self._next_look:
            self._next_look = now + LOOK_EVERY
            self._look()
        if not all(answer.done() for answer in self._asked.values()):
            return []
        answers, self._asked = self._asked, {}
        return [partition for partition, answer in answers.items() if self._is_stuck(partition, answer, now)]

    def told_end(self, partition: Partition) -> int:
        """Return the end of a partition whose records do not come, as a broker told it; -1 of any other."""
        return self._told_ends.get(partition, -1)

    def run_dry(self) -> None:
        """Note that all that the client had fetched is returned."""
        self._ran_dry = True

    def reach(self, partition: Partition, end: int) -> None:
        """Note that the end of a partition was reached."""
        self._ends[partition] = end

    def pause(self, partitions: Iterable[Partition]) -> None:
        """Leave out partitions that are paused."""
        self._paused.update(partitions)
        self.excuse(partitions)

    def resume(self, partitions: Iterable[Partition]) -> None:
        """Count them again, from now on."""
        self._paused.difference_update(partitions)

    def excuse(self, partitions: Iterable[Partition]) -> None:
        """Count these from now on only: the client reported an error of theirs, for example."""
        for partition in partitions:
            self._next.pop(partition, None)
            self._unread_since.pop(partition, None)

    def forget(self, partitions: Collection[Partition]) -> None:
        """Drop all about partitions that come, go, or are read from another position."""
        self.resume(partitions)
        self.excuse(partitions)
        for partition in partitions:
            self._ends.pop(partition, None)
            self._told_ends.pop(partition, None)

    def _look(self) -> None:
        before, self._next = self._next, self._next_offsets()
        silent = [at for at, offset in self._next.items() if self._ran_dry and before.get(at) == offset]
        self._ran_dry = False
        self._unread_since = {at: since for at, since in self._unread_since.items() if at in silent}
        self._asked = self._ask(silent) if silent else {}

    def _next_offsets(self) -> dict[Partition, int]:
        """Return the next offset to read of each partition that may be read; below 0 before the first."""
        found = {}
        for at in self._consumer.position(self._consumer.assignment()):
            partition = Partition(at.topic, at.partition)
            if partition not in self._paused:
                found[partition] = max(at.offset, self._ends.get(partition, -1))
        return found

    def _ask(self, partitions: Iterable[Partition]) -> Mapping[Partition, "Future[Any]"]:
        """Request the ends of partitions, as a consumer sees them: before the first open transaction."""
        answers = self._admin().list_offsets(
            {TopicPartition(*partition): OffsetSpec.latest() for partition in partitions},
            isolation_level=IsolationLevel.READ_COMMITTED,
            request_timeout=TIMEOUT,
        )
        return {Partition(at.topic, at.partition): answer for at, answer in answers.items()}

    def _is_stuck(self, partition: Partition, answer: "Future[Any]", now: float) -> bool:
        position, end = self._next.get(partition), _end_in(answer)
        if position is None or end is None or end <= position:
            self._unread_since.pop(partition, None)
            self._told_ends.pop(partition, None)
            return False
        self._told_ends[partition] = end
        since = self._unread_since.setdefault(partition, now)
        # It may have come while the brokers were asked.
        return now - since >= STUCK_AFTER and self._next_offsets().get(partition) == position


def _end_in(answer: "Future[Any]") -> int | None:
    """Return the end in the answer of a broker; None where none answered."""
    try:
        return int(answer.result().offset)
    except KafkaException:
        return None
