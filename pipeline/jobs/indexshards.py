"""The shards of the index: over how many partitions entries are spread, and how many are read (ADR 15).

Processes may have different settings. The most shards that any of them ever used is recorded, and only grows.
It is recorded before an entry is spread so far, and read anew for each list, so that no list misses a job.
"""

import time
from collections.abc import Callable

import structlog

from pipeline.errors import ServiceError
from pipeline.jobs.expressions import below
from pipeline.jobs.keys import Keys
from pipeline.jobs.table import Table
from pipeline.settings import FEWEST_SHARDS

log = structlog.get_logger(__name__)

#: Seconds until a number that could not be recorded is tried again.
AGAIN_AFTER = 10.0


class IndexShards:
    """The shards of one service's entries in the index. Threads may share it."""

    def __init__(
        self, table: Table, keys: Keys, wanted: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """``wanted``: the shards that this process is to use, ``FEWEST_SHARDS`` or more."""
        self._table = table
        self._keys = keys
        self._wanted = wanted
        self._clock = clock
        self._written = FEWEST_SHARDS
        self._try_at = 0.0

    def to_write(self) -> int:
        """Return over how many shards to spread entries now: ``FEWEST_SHARDS`` until more are recorded.

        Never raises: an entry in one of fewer shards is found as well.
        """
        if self._written < self._wanted and self._clock() >= self._try_at:
            # Before the call: other threads do not wait for it.
            self._try_at = self._clock() + AGAIN_AFTER
            self._record()
        return self._written

    def to_read(self) -> int:
        """Return how many shards may have entries now; raises the ServiceError of DynamoDB."""
        item = self._table.get(self._keys.index_shards()) or {}
        return max(FEWEST_SHARDS, int(item.get("shards", 0)))

    def _record(self) -> None:
        try:
            self._table.update(
                self._keys.index_shards(),
                put={"shards": self._wanted},
                when=below("shards", self._wanted),
            )
        except ServiceError as error:
            log.warning("jobs.index_shards_not_recorded", shards=self._wanted, error=str(error))
        else:
            self._written = self._wanted
