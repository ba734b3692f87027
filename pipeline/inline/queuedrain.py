"""Whether what others sent to SQS is through, for a bridge that runs stages itself.

A later event must not overtake a task that waits there, nor run beside it. Whether the bridge that had a
partition before sent its tasks is not known, so the queues are looked at whenever partitions come.
"""

import time
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

import structlog

from pipeline.errors import ServiceUnavailableError
from pipeline.sqs.queues import queue_attributes

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

log = structlog.get_logger(__name__)

#: Seconds between two looks at the queues, and how long they must be seen empty: SQS's counts may be a minute
#: old (GetQueueAttributes, API reference).
LOOK_EVERY, EMPTY_FOR = 5.0, 60.0

#: Messages of a queue in all states.
_COUNTS = (
    "ApproximateNumberOfMessages",
    "ApproximateNumberOfMessagesNotVisible",
    "ApproximateNumberOfMessagesDelayed",
)


class Emptied:
    """Looks at queues until they were empty for so long that nothing can be left there. For one thread."""

    def __init__(
        self, client: "SQSClient", urls: Collection[str], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._client = client
        self._urls = urls
        self._clock = clock
        self._asked = False
        self._next_look = 0.0
        self._empty_since: float | None = None

    def ask(self) -> None:
        """From now on they must be empty, however they were before."""
        self._asked = True
        self._empty_since = None

    def answer(self) -> bool:
        """Whether they were, or none of them is there; looks when it is time. True where nobody asked.

        Raises the ServiceRefusedError of an SQS that will not say.
        """
        now = self._clock()
        if self._asked and now >= self._next_look:
            self._next_look = now + LOOK_EVERY
            try:
                self._asked = not self._look(now)
            except ServiceUnavailableError as error:
                self._empty_since = None
                log.warning("bridge.queues_unknown", error=str(error))
        return not self._asked

    def _look(self, now: float) -> bool:
        attributes = [queue_attributes(self._client, url) for url in self._urls]
        present = [each for each in attributes if each is not None]
        left = sum(int(each.get(count, 0)) for each in present for count in _COUNTS)
        if left:
            self._empty_since = None
        elif self._empty_since is None:
            self._empty_since = now
        if not present or (self._empty_since is not None and now - self._empty_since >= EMPTY_FOR):
            return True
        log.info("bridge.waits_for_queues", messages=left, empty_for=round(now - (self._empty_since or now)))
        return False
