"""The order in which events run where there is no SQS: an outbox that can wait, hold back and retry."""

import heapq
import itertools
import time
from collections.abc import Collection, Iterable, Sequence

from pipeline.bridge.outbox import Entry, Outbox
from pipeline.kafka import Partition


class RunQueue(Outbox):
    """Gives out one entry of a group at a time, also of an unordered one: copies of a task are one group."""

    def __init__(self) -> None:
        super().__init__(batch=1)
        #: Entries to retry: when (``time.monotonic``) each is ready again, and a number that keeps the order.
        self._later: list[tuple[float, int, Entry]] = []
        self._numbers = itertools.count()
        #: Entries that were taken and are neither out nor to be retried.
        self._running: set[Entry] = set()
        self._held = False
        #: Partitions whose entries are withheld, and those entries.
        self._parked: set[Partition] = set()
        self._waiting: list[Entry] = []

    def put(self, entry: Entry) -> None:
        """Add an entry behind those of its group; one of a parked partition waits until ``unpark``."""
        with self._changed:
            if entry.held.ticket.partition in self._parked:
                self._waiting.append(entry)
            else:
                super().put(entry)

    def out(self, entries: Sequence[Entry]) -> None:
        """Mark entries as out: the next of their groups may go."""
        with self._changed:
            self._take_back(entries)
            super().out(entries)

    def reopen(self, entry: Entry) -> None:
        """Take back an entry whose new job is to be opened."""
        with self._changed:
            self._take_back([entry])
            super().reopen(entry)

    def replace(self, entry: Entry, entries: Iterable[Entry]) -> None:
        """Put ``entries`` in the place of one that had no plan."""
        with self._changed:
            self._take_back([entry])
            super().replace(entry, entries)

    def retry(self, entry: Entry, seconds: float) -> None:
        """Give out the entry again after ``seconds``; the next of its group waits behind it."""
        with self._changed:
            self._take_back([entry])
            heapq.heappush(self._later, (time.monotonic() + seconds, next(self._numbers), entry))
            self._changed.notify()

    def hold(self) -> None:
        """Give out nothing until ``resume``."""
        with self._changed:
            self._held = True

    def resume(self) -> None:
        """Give out entries again."""
        with self._changed:
            self._held = False
            self._changed.notify_all()

    def wait_returned(self, partitions: Collection[Partition], timeout: float) -> bool:
        """Wait until no entry of these partitions is given out; False when time ran out first."""
        with self._changed:
            return self._changed.wait_for(
                lambda: not any(entry.held.ticket.partition in partitions for entry in self._running), timeout
            )

    def park(self, partitions: Iterable[Partition]) -> None:
        """Withhold entries of these partitions until ``unpark``; all others go on."""
        with self._changed:
            self._parked.update(partitions)

    @property
    def parked(self) -> bool:
        """Whether entries of any partition are withheld."""
        return bool(self._parked)

    def unpark(self) -> None:
        """Give out the withheld entries, in the order in which they came."""
        with self._changed:
            self._parked.clear()
            for entry in self._waiting:
                super().put(entry)
            self._waiting.clear()

    def _lane(self, entry: Entry) -> tuple[str, str] | None:
        return (entry.destination, entry.task.group_id) if entry.task else super()._lane(entry)

    def _next(self) -> tuple[str | None, float | None]:
        if self._held:
            return None, None
        now = time.monotonic()
        while self._later and self._later[0][0] <= now:
            self._offer(heapq.heappop(self._later)[2])
        destination, wait = super()._next()
        if destination is None and self._later:
            due = self._later[0][0] - now
            wait = due if wait is None else min(wait, due)
        return destination, wait

    def _take(self, destination: str) -> list[Entry]:
        batch = super()._take(destination)
        self._running.update(batch)
        return batch

    def _take_back(self, entries: Sequence[Entry]) -> None:
        self._running.difference_update(entries)
        if self._held:
            self._changed.notify_all()
