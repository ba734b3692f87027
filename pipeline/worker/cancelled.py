"""The cancelled jobs that this worker knows of, read in intervals instead of once for each task."""

import threading
import time

import structlog

from pipeline.errors import ServiceError
from pipeline.jobs import JobStore

log = structlog.get_logger(__name__)

#: Seconds between two reads: a worker begins to skip at most so late.
EVERY = 2.0
#: Jobs cancelled so long before the last read (seconds) are read again: clocks may differ by as much.
CLOCKS_DIFFER = 300.0
#: Ids in the log line of newly known jobs. Of a worker that starts they may be thousands.
IDS_LOGGED = 20


class CancelledJobs:
    """The ids of all cancelled jobs that are still recorded; while DynamoDB is away, those known before."""

    def __init__(self, store: JobStore, every: float = EVERY) -> None:
        """``every`` is the number of seconds between two reads; only tests set it."""
        self._store = store
        self._every = every
        self._known: set[str] = set()
        #: When they were read last (seconds since 1970); 0: never, so that all are read.
        self._read_at = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="cancelled-jobs", daemon=True)

    def start(self) -> None:
        """Read for the first time, then continue in a thread."""
        self._read()
        self._thread.start()

    def close(self) -> None:
        """Stop reading. Returns at once."""
        self._stop.set()

    def __contains__(self, job_id: object) -> bool:
        """Whether this worker knows that a job is cancelled."""
        return job_id in self._known

    def _work(self) -> None:
        while not self._stop.wait(self._every):
            try:
                self._read()
            except Exception:
                # The thread must go on reading: without it the worker looks healthy.
                log.exception("cancelled_jobs.failed")

    def _read(self) -> None:
        now = time.time()
        try:
            found = self._store.cancelled_since(max(0.0, self._read_at - CLOCKS_DIFFER))
        except ServiceError as error:
            # Settlement waits for DynamoDB; here only time is lost.
            log.warning("cancelled_jobs.unknown", error=str(error))
            return
        if new := found - self._known:
            log.info("cancelled_jobs.known", jobs=len(new), ids=sorted(new)[:IDS_LOGGED])
        self._known |= found
        self._read_at = now
