"""The backlog of a bridge: records that were polled and are not taken yet.

A poll brings hundreds of records. Where consumers make many events of each, or run long, taking all of them
at once would fill the memory, or keep the bridge from its next poll until the group takes it for dead.
"""

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping

from pipeline.kafka import Partition, ReceivedRecord


class Backlog:
    """Records in the order in which they were polled, and the ends of partitions behind them.

    Of one thread. What is inside when its partition goes was not taken, so it is read again.
    """

    def __init__(self) -> None:
        self._records: deque[ReceivedRecord] = deque()
        self._ends: dict[Partition, int] = {}

    def __len__(self) -> int:
        return len(self._records)

    def add(self, records: Iterable[ReceivedRecord], ends: Mapping[Partition, int]) -> None:
        """Add polled records, and the offsets before which all events of a partition are polled."""
        self._records.extend(records)
        self._ends.update(ends)

    def take(self) -> Iterator[ReceivedRecord]:
        """Yield the records, each of which leaves the backlog with that."""
        while self._records:
            yield self._records.popleft()

    def take_of(self, partition: Partition) -> list[ReceivedRecord]:
        """Return the records of one partition, which leave the backlog."""
        found = [record for record in self._records if _partition(record) == partition]
        self._keep_without([partition])
        return found

    def take_ends(self) -> dict[Partition, int]:
        """Return the ends before which all records were taken: none while there are any."""
        if self._records:
            return {}
        ends, self._ends = self._ends, {}
        return ends

    def drop(self, partitions: Collection[Partition]) -> None:
        """Forget partitions that come or go."""
        self._keep_without(partitions)
        for partition in partitions:
            self._ends.pop(partition, None)

    def _keep_without(self, partitions: Collection[Partition]) -> None:
        self._records = deque(record for record in self._records if _partition(record) not in partitions)


def _partition(record: ReceivedRecord) -> Partition:
    return Partition(record.topic, record.partition)
