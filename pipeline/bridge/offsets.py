"""Which offsets may be committed: up to the first event of a partition that is not settled yet."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from pipeline.kafka import Partition


@dataclass(frozen=True, slots=True)
class Ticket:
    """One event taken from a partition, under one assignment of it."""

    partition: Partition
    offset: int
    #: The assignment: given away and given back, a partition has a new one.
    assignment: "_Assignment"
    #: How many were taken under it before.
    number: int

    @property
    def lost(self) -> bool:
        """Whether the partition was given away since: then the event is another member's."""
        return self.assignment.lost


class OffsetTracker:
    """Follows events from taken to settled, in any order, and says what may be committed.

    A crash repeats what is above the committed offset and never skips: nothing is committed past an event
    that is not settled. What is settled after its partition was given away changes nothing. Threads share it.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Condition()
        self._assigned: dict[Partition, _Assignment] = {}

    def assign(self, partitions: Iterable[Partition]) -> None:
        """Begin to follow partitions that were given to this member."""
        with self._lock:
            for partition in partitions:
                self._forget(partition)
                self._assigned[partition] = _Assignment()

    def revoke(self, partitions: Iterable[Partition]) -> None:
        """Forget partitions that were given away; commit what is settled before."""
        with self._lock:
            for partition in partitions:
                self._forget(partition)
            self._lock.notify_all()

    def take(self, partition: Partition, offset: int) -> Ticket | None:
        """Take an event in; None when its partition is not (or no more) this member's."""
        with self._lock:
            assignment = self._assigned.get(partition)
            if assignment is None:
                return None
            if assignment.taken and offset <= assignment.taken[-1][0]:
                # Read again from further back, so this is another assignment that nobody announced.
                self._forget(partition)
                assignment = self._assigned[partition] = _Assignment()
            assignment.taken.append((offset, self._clock()))
            assignment.count += 1
            return Ticket(partition, offset, assignment, assignment.count - 1)

    def settle(self, ticket: Ticket) -> None:
        """An event is on its way for good: it is a task, or on the DLQ topic."""
        with self._lock:
            ticket.assignment.settled.add(ticket.offset)
            self._lock.notify_all()

    def committable(self) -> dict[Partition, int]:
        """The next offset to read of each partition that moved on since its last commit."""
        with self._lock:
            positions = {partition: assigned.position() for partition, assigned in self._assigned.items()}
            return {partition: position for partition, position in positions.items() if position is not None}

    def committed(self, offsets: Mapping[Partition, int]) -> None:
        """These offsets, as given by ``committable``, are committed."""
        with self._lock:
            for partition, offset in offsets.items():
                if partition in self._assigned:
                    self._assigned[partition].drop_below(offset)

    def partitions(self) -> list[Partition]:
        """The partitions that are followed."""
        with self._lock:
            return list(self._assigned)

    def span(self, partition: Partition) -> int:
        """How many events a crash now would repeat: taken and not committed."""
        with self._lock:
            assigned = self._assigned.get(partition)
            return len(assigned.taken) if assigned else 0

    def age(self, partition: Partition) -> float:
        """Seconds since the oldest event that is not committed was taken; 0 when all are."""
        with self._lock:
            assigned = self._assigned.get(partition)
            return self._clock() - assigned.taken[0][1] if assigned and assigned.taken else 0.0

    def wait_settled(self, partitions: Iterable[Partition], timeout: float) -> bool:
        """Wait until all that was taken of these partitions is settled; False when time ran out first."""
        watched = list(partitions)
        with self._lock:
            return self._lock.wait_for(lambda: not any(map(self._unsettled, watched)), timeout)

    def _unsettled(self, partition: Partition) -> int:
        assigned = self._assigned.get(partition)
        return len(assigned.taken) - len(assigned.settled) if assigned else 0

    def _forget(self, partition: Partition) -> None:
        assignment = self._assigned.pop(partition, None)
        if assignment is not None:
            assignment.lost = True


class _Assignment:
    """The events of one partition between its assignment and its loss, above what is committed."""

    def __init__(self) -> None:
        self.lost = False
        #: Offset and moment of each, in order. Offsets may have gaps: compaction, transactions.
        self.taken: deque[tuple[int, float]] = deque()
        self.settled: set[int] = set()
        #: Events taken in all.
        self.count = 0

    def position(self) -> int | None:
        """One past the last of the settled events at the front; None when the first is not settled."""
        position = None
        for offset, _ in self.taken:
            if offset not in self.settled:
                break
            position = offset + 1
        return position

    def drop_below(self, offset: int) -> None:
        while self.taken and self.taken[0][0] < offset:
            self.settled.discard(self.taken.popleft()[0])
