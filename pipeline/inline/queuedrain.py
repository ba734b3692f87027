"""Detects when tasks that were sent to SQS have drained, for a bridge that runs stages itself.

A later event must not overtake a task that waits there, nor run beside it. Whether the bridge that had a
partition before sent its tasks is not known, so the queues are checked whenever partitions are assigned.
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

#: Seconds between two checks of the queues, and how long they must be empty: SQS's counts may be a minute old
#: (GetQueueAttributes, API reference).
CHECK_EVERY, EMPTY_FOR = 5.0, 60.0

#: Messages of a queue in all states.
_COUNTS = (
    "ApproximateNumberOfMessages",
    "ApproximateNumberOfMessagesNotVisible",
    "ApproximateNumberOfMessagesDelayed",
)


class QueueDrain:
    """Checks queues until they were empty for so long that nothing can be left there. For one thread."""

    def __init__(
        self, client: "SQSClient", urls: Collection[str], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._client = client
        self._urls = urls
        self._clock = clock
        self._waiting = False
        self._next_check = 0.0
        self._empty_since: float | None = None

    def restart(self) -> None:
        """Require that the queues are empty from now on, however they were before."""
        self._waiting = True
        self._empty_since = None

    def is_done(self) -> bool:
        """Whether they were empty, or none of them exists; checks when it is due. True before ``restart``.

        Raises the ServiceRefusedError of an SQS that does not answer.
        """
        now = self._clock()
        if self._waiting and now >= self._next_check:
            self._next_check = now + CHECK_EVERY
            try:
                self._waiting = not self._check(now)
            except ServiceUnavailableError as error:
                self._empty_since = None
                log.warning("bridge.queues_unknown", error=str(error))
        return not self._waiting

    def _check(self, now: float) -> bool:
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
