"""What the last bridge of a partition left behind, which must be known before this one takes over from it.

A bridge sends tasks to SQS, or runs stages itself. Tasks that wait on SQS must be through before a bridge
runs what follows them, or the same, itself. So one that runs leaves a note beside each offset it commits:
while it stands there, nothing of the partition is on SQS; and one that sends takes it away before the first.
"""

import time
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Protocol

import structlog

from pipeline.errors import ServiceUnavailableError
from pipeline.kafka import Partition
from pipeline.sqs.queues import queue_attributes

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

log = structlog.get_logger(__name__)

#: The note beside an offset: what is below it has run, and was never sent.
RAN_HERE = "ran-here"

#: Seconds between two looks at the queues, and how long they must be seen empty: SQS's counts may be a minute
#: old (GetQueueAttributes, API reference).
LOOK_EVERY, EMPTY_FOR = 5.0, 60.0

#: Messages of a queue in all states.
_COUNTS = (
    "ApproximateNumberOfMessages",
    "ApproximateNumberOfMessagesNotVisible",
    "ApproximateNumberOfMessagesDelayed",
)


class Commits(Protocol):
    """What is asked of a consumer."""

    def committed(self, partitions: Collection[Partition]) -> dict[Partition, tuple[int, str]]:
        """The next offset to read of each, and the note beside it."""

    def commit(self, offsets: Mapping[Partition, int], note: str = "") -> None:
        """Commit these."""


class Handover:
    """The partitions whose past is not known yet. One thread calls it."""

    def __init__(self, emptied: "Emptied | None") -> None:
        """``emptied``: for a bridge that runs stages itself, the queues that others send to."""
        self._emptied = emptied
        self._unknown: set[Partition] = set()

    @property
    def note(self) -> str:
        """What this bridge leaves beside the offsets that it commits."""
        return RAN_HERE if self._emptied else ""

    def assigned(self, partitions: Collection[Partition]) -> None:
        """These are this bridge's now."""
        self._unknown.update(partitions)

    def gone(self, partitions: Collection[Partition]) -> None:
        """These are another's."""
        self._unknown.difference_update(partitions)

    def is_over(self, consumer: Commits) -> bool:
        """Whether this bridge may begin with all that it has; asked again and again until it may.

        Raises the ServiceRefusedError of a service that never will say.
        """
        if not self._unknown:
            return True
        try:
            found = consumer.committed(self._unknown)
            ran = {at: offset for at, (offset, note) in found.items() if note == RAN_HERE}
            if self._emptied is None:
                consumer.commit({at: offset for at, offset in ran.items() if at in self._unknown})
            else:
                self._unknown.difference_update(ran)
                if self._unknown and not self._emptied.look():
                    return False
        except ServiceUnavailableError as error:
            log.warning("bridge.handover_waits", error=str(error))
            return False
        self._unknown.clear()
        return True


class Emptied:
    """Whether queues were empty for so long that nothing can be left in them."""

    def __init__(
        self, client: "SQSClient", urls: Collection[str], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._client = client
        self._urls = urls
        self._clock = clock
        self._next_look = 0.0
        self._empty_since: float | None = None

    def look(self) -> bool:
        """Look again, when it is time; True once they are empty, or none of them is there.

        Whoever is told so begins, so the next one to ask waits anew.
        """
        now = self._clock()
        if now < self._next_look:
            return False
        self._next_look = now + LOOK_EVERY
        attributes = [queue_attributes(self._client, url) for url in self._urls]
        present = [each for each in attributes if each is not None]
        left = sum(int(each.get(count, 0)) for each in present for count in _COUNTS)
        if left:
            self._empty_since = None
        elif self._empty_since is None:
            self._empty_since = now
        if not present or (self._empty_since is not None and now - self._empty_since >= EMPTY_FOR):
            self._empty_since = None
            return True
        log.info("bridge.waits_for_queues", messages=left, empty_for=round(now - (self._empty_since or now)))
        return False
