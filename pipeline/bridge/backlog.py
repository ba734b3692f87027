"""The backlog of a bridge: records that were polled and are not taken yet.

A poll brings hundreds of records. Where consumers make many events of each, or run long, taking all of them
at once would fill the memory, or keep the bridge from its next poll until the group takes it for dead. A
record whose schema is not known yet stays here, with all behind it in its partition.
"""

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

from pipeline.kafka import Partition, ReceivedRecord


class Backlog:
    """Records in the order in which they were polled, and the ends of partitions behind them.

    Of one thread. What is inside when its partition goes was not taken, so it is read again.
    """

    def __init__(self) -> None:
        self._records: deque[ReceivedRecord] = deque()
        self._ends: dict[Partition, int] = {}
        #: The records of partitions whose first one waits for its schema.
        self._waiting: dict[Partition, deque[ReceivedRecord]] = {}
        #: The size of these records.
        self.waiting_bytes = 0

    def __len__(self) -> int:
        """Return how many records may be taken, as far as is known."""
        return len(self._records)

    @property
    def waiting(self) -> Collection[Partition]:
        """The partitions whose first record waits for its schema: nothing more of them should be polled."""
        return self._waiting.keys()

    def add(self, records: Iterable[ReceivedRecord], ends: Mapping[Partition, int]) -> None:
        """Add polled records, and the offsets before which all events of a partition are polled."""
        self._records.extend(records)
        self._ends.update(ends)

    def take(self, is_ready: Callable[[ReceivedRecord], bool] = lambda _: True) -> Iterator[ReceivedRecord]:
        """Yield the records that are ready, each of which leaves the backlog with that.

        One that is not ready waits, and so do those behind it in its partition.
        """
        for partition in list(self._waiting):
            # It goes only when all are taken: until then others of its partition queue up behind it.
            while (records := self._waiting.get(partition)) and is_ready(records[0]):
                record = records.popleft()
                self.waiting_bytes -= _size(record)
                yield record
            if not records:
                self._waiting.pop(partition, None)
        while self._records:
            record = self._records.popleft()
            partition = _partition(record)
            if partition in self._waiting or not is_ready(record):
                self._waiting.setdefault(partition, deque()).append(record)
                self.waiting_bytes += _size(record)
            else:
                yield record

    def take_of(self, partition: Partition) -> list[ReceivedRecord]:
        """Return the records of one partition, which leave the backlog."""
        found = [*self._waiting.get(partition, ()), *(r for r in self._records if _partition(r) == partition)]
        self._keep_without([partition])
        return found

    def take_ends(self) -> dict[Partition, int]:
        """Return the ends before which all records were taken: of no partition that has any here."""
        held = {*map(_partition, self._records), *self._waiting}
        found = {partition: end for partition, end in self._ends.items() if partition not in held}
        for partition in found:
            del self._ends[partition]
        return found

    def drop(self, partitions: Collection[Partition]) -> None:
        """Forget partitions that come or go."""
        self._keep_without(partitions)
        for partition in partitions:
            self._ends.pop(partition, None)

    def _keep_without(self, partitions: Collection[Partition]) -> None:
        self._records = deque(record for record in self._records if _partition(record) not in partitions)
        for partition in partitions:
            self.waiting_bytes -= sum(map(_size, self._waiting.pop(partition, ())))


def _size(record: ReceivedRecord) -> int:
    return len(record.value or b"") + len(record.key or b"")


def _partition(record: ReceivedRecord) -> Partition:
    return Partition(record.topic, record.partition)
