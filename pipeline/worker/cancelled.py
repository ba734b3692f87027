"""Cancelled jobs, as this worker knows them: read now and then, so that no task costs a read of its own."""

import threading
import time

import structlog

from pipeline.errors import ServiceError
from pipeline.jobs import JobStore

log = structlog.get_logger(__name__)

#: Seconds between two reads: how late a worker begins to skip, at most.
EVERY = 2.0
#: What was cancelled so long before the last read (seconds) is read once more: clocks may differ by as much.
CLOCKS_DIFFER = 300.0


class CancelledJobs:
    """The ids of all cancelled jobs that are still recorded. While DynamoDB is away, those known before."""

    def __init__(self, store: JobStore, every: float = EVERY) -> None:
        """``every`` is given by tests only."""
        self._store = store
        self._every = every
        self._known: set[str] = set()
        #: When it was read last (seconds since 1970); 0: never, so that all are read.
        self._read_at = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="cancelled-jobs", daemon=True)

    def start(self) -> None:
        """Read for the first time, then go on in a thread."""
        self._read()
        self._thread.start()

    def close(self) -> None:
        """Read no more. Returns at once."""
        self._stop.set()

    def __contains__(self, job_id: object) -> bool:
        """Whether a job is cancelled, as far as is known here."""
        return job_id in self._known

    def _work(self) -> None:
        while not self._stop.wait(self._every):
            try:
                self._read()
            except Exception:
                # The next look is made all the same: a worker without looks well.
                log.exception("cancelled_jobs.failed")

    def _read(self) -> None:
        now = time.time()
        try:
            found = self._store.cancelled_since(max(0.0, self._read_at - CLOCKS_DIFFER))
        except ServiceError as error:
            # Settlement meets the same error, and waits; here nothing is lost but time.
            log.warning("cancelled_jobs.unknown", error=str(error))
            return
        self._known |= found
        self._read_at = now
