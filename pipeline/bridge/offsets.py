"""Offsets that may be committed: up to the first event of a partition that is not settled."""

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
    #: The assignment; a partition that comes back has a new one.
    assignment: "_Assignment"
    #: How many events were taken under it before.
    number: int

    @property
    def lost(self) -> bool:
        """Whether the partition was given away since, so that the event is another member's."""
        return self.assignment.lost


class OffsetTracker:
    """Follows events from taken to settled, in any order, and returns the offsets that may be committed.

    A crash repeats the events above the committed offset and skips none: nothing is committed past an event
    that is not settled. Settling an event of a partition that was given away has no effect. Threads share it.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Condition()
        self._assigned: dict[Partition, _Assignment] = {}

    def assign(self, partitions: Iterable[Partition]) -> None:
        """Follow partitions that were assigned to this member."""
        with self._lock:
            for partition in partitions:
                self._forget(partition)
                self._assigned[partition] = _Assignment()

    def revoke(self, partitions: Iterable[Partition]) -> None:
        """Forget partitions that were given away; commit their settled events first."""
        with self._lock:
            for partition in partitions:
                self._forget(partition)
            self._lock.notify_all()

    def take(self, partition: Partition, offset: int) -> Ticket | None:
        """Return the ticket of an event; None when its partition is not assigned to this member."""
        with self._lock:
            assignment = self._assigned.get(partition)
            if assignment is None:
                return None
            if assignment.taken and offset <= assignment.taken[-1][0]:
                # Read again from further back: another assignment, without an announcement.
                self._forget(partition)
                assignment = self._assigned[partition] = _Assignment()
            assignment.taken.append((offset, self._clock()))
            assignment.count += 1
            return Ticket(partition, offset, assignment, assignment.count - 1)

    def reach(self, ends: Mapping[Partition, int]) -> None:
        """Note that all events before these offsets were taken.

        The offsets after the last event are no events: transaction markers, aborted records.
        """
        with self._lock:
            for partition, end in ends.items():
                if partition in self._assigned:
                    self._assigned[partition].end = end

    def restart(self, partition: Partition) -> None:
        """Follow a partition anew, as it is read from another position; its events in flight still count."""
        with self._lock:
            if partition in self._assigned:
                self._assigned[partition] = _Assignment()

    def divide(self, ticket: Ticket, events: int) -> None:
        """Let a record be settled with the last of its ``events``; called before the first of them can be."""
        with self._lock:
            if events > 1:
                ticket.assignment.unsettled[ticket.offset] = events

    def settle(self, ticket: Ticket) -> None:
        """Mark an event as settled: it is a task, or on the DLQ topic."""
        with self._lock:
            left = ticket.assignment.unsettled.pop(ticket.offset, 1) - 1
            if left:
                ticket.assignment.unsettled[ticket.offset] = left
                return
            ticket.assignment.settled.add(ticket.offset)
            self._lock.notify_all()

    def committable(self) -> dict[Partition, int]:
        """Return the next offset to read of each partition that advanced since its last commit."""
        with self._lock:
            positions = {partition: assigned.position() for partition, assigned in self._assigned.items()}
            return {partition: position for partition, position in positions.items() if position is not None}

    def committed(self, offsets: Mapping[Partition, int]) -> None:
        """Note that offsets, as returned by ``committable``, are committed."""
        with self._lock:
            for partition, offset in offsets.items():
                if partition in self._assigned:
                    self._assigned[partition].drop_below(offset)

    def partitions(self) -> list[Partition]:
        """Return the partitions that are followed."""
        with self._lock:
            return list(self._assigned)

    def span(self, partition: Partition) -> int:
        """Return how many events a crash now would repeat: taken and not committed."""
        with self._lock:
            assigned = self._assigned.get(partition)
            return len(assigned.taken) if assigned else 0

    def age(self, partition: Partition) -> float:
        """Return the seconds since the oldest uncommitted event was taken; 0 when all are committed."""
        with self._lock:
            assigned = self._assigned.get(partition)
            return self._clock() - assigned.taken[0][1] if assigned and assigned.taken else 0.0

    def wait_settled(self, partitions: Iterable[Partition], timeout: float) -> bool:
        """Wait until all events taken of these partitions are settled; False when time ran out first."""
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
        #: By offset, the events that are not settled of a record that became several.
        self.unsettled: dict[int, int] = {}
        #: Events taken in all.
        self.count = 0
        #: All events before this offset were taken.
        self.end = 0
        self.committed = 0

    def position(self) -> int | None:
        """Return the offset after the settled events at the front; None where nothing is to be committed.

        With no event unsettled it is the end of the partition, if that was reached.
        """
        position = None
        for offset, _ in self.taken:
            if offset not in self.settled:
                return position
            position = offset + 1
        return max(position or 0, self.end) if position or self.end > self.committed else None

    def drop_below(self, offset: int) -> None:
        self.committed = offset
        while self.taken and self.taken[0][0] < offset:
            self.settled.discard(self.taken.popleft()[0])
