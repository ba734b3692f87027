"""The cancelled jobs that this worker knows of, read in intervals instead of once for each task.

All workers of a service read one list (ADR 14), so what each of them reads is bounded: mostly what was added
since its last read, and only now and then as much as clocks may differ.
"""

import math
import random
import threading
import time

import structlog

from pipeline.errors import ServiceError
from pipeline.jobs import JobStore
from pipeline.telemetry import metrics

log = structlog.get_logger(__name__)

#: Seconds between two reads: a worker begins to skip at most so late.
EVERY = 2.0
#: A read begins so long before the last one (seconds): replicas lag, and a write may take a while.
OVERLAP = 10.0
#: One read in 15 to 30 goes further back, to this long before the last such one (seconds): the clock of a
#: process that cancels may be behind by as much.
CLOCKS_DIFFER, FAR_LEAST, FAR_MOST = 300.0, 15, 30
#: Ids in the log line of newly known jobs. Of a worker that starts they may be thousands.
IDS_LOGGED = 20

#: Read units a second of one partition key (DynamoDB developer guide, "Best practices for designing and using
#: partition keys").
KEY_UNITS = 3000
#: Bytes of an entry of the list: its two keys, with a job id of 36 characters, and its expiry.
ENTRY_BYTES = 90


class CancelledJobs:
    """The ids of all cancelled jobs that are still recorded; while DynamoDB is away, those known before."""

    def __init__(self, store: JobStore, every: float = EVERY) -> None:
        """``every`` is the number of seconds between two reads; only tests set it."""
        self._store = store
        self._every = every
        self._known: set[str] = set()
        #: When they were read last, and last read far back (seconds since 1970); 0: never, so all are read.
        self._read_at = self._far_read_at = 0.0
        #: Reads until one goes far back.
        self._near_left = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="cancelled-jobs", daemon=True)

    def start(self) -> None:
        """Read for the first time, then continue in a thread."""
        self.read()
        self._thread.start()

    def close(self) -> None:
        """Stop reading. Returns at once."""
        self._stop.set()

    def __contains__(self, job_id: object) -> bool:
        """Whether this worker knows that a job is cancelled."""
        return job_id in self._known

    def read(self) -> None:
        """Read what may be new. Without an answer, what is known stays, and the next read asks again."""
        now = time.time()
        is_far = self._near_left == 0
        since = self._far_read_at - CLOCKS_DIFFER if is_far else self._read_at - OVERLAP
        try:
            found = self._store.cancelled_since(max(0.0, since))
        except ServiceError as error:
            # Settlement waits for DynamoDB; here only time is lost.
            log.warning("cancelled_jobs.unknown", error=str(error))
            return
        metrics.CANCELLED_UNITS.inc(_units(len(found)))
        new = found - self._known
        self._known |= found
        if new:
            log.info("cancelled_jobs.known", jobs=len(new), ids=sorted(new)[:IDS_LOGGED])
        self._read_at = now
        if is_far:
            self._far_read_at = now
            # Not the same for all: workers that start together must not read far back together for ever.
            self._near_left = random.randint(FAR_LEAST, FAR_MOST) - 1  # noqa: S311 - no secret
        else:
            self._near_left -= 1

    def _work(self) -> None:
        while not self._stop.wait(self._every):
            try:
                self.read()
            except Exception:
                # The thread must go on reading: without it the worker looks healthy.
                log.exception("cancelled_jobs.failed")


def units_a_second(cancelled: int) -> float:
    """Return the read units that a worker needs a second where ``cancelled`` jobs are in five minutes."""
    rate = cancelled / CLOCKS_DIFFER
    far_every = (FAR_LEAST + FAR_MOST) / 2 * EVERY
    near, far = (_units(rate * seconds) for seconds in (EVERY + OVERLAP, far_every + CLOCKS_DIFFER))
    return near / EVERY + far / far_every


def _units(entries: float) -> float:
    """Return the units of one eventually consistent query: half a unit for each started 4 KB."""
    return max(1, math.ceil(entries * ENTRY_BYTES / 4096)) / 2
