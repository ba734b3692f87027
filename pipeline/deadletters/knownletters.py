"""Known letters: the dead letters of open jobs, as the last scan of the dead-letter queue found them."""

import math
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence

from pipeline.deadletters.explain import Explainer
from pipeline.deadletters.finding import Finding
from pipeline.deadletters.letter import DeadLetter, Filter
from pipeline.deadletters.listing import Listing
from pipeline.jobs import FailedTask, JobState, JobStore
from pipeline.settings import Settings
from pipeline.sqs import ReceivedMessage
from pipeline.worker.settle.outgoingletter import failed_task

#: Seconds after which the dead-letter queue is scanned although its depth is the same.
SCAN_EVERY = 900.0
#: After a scan the queue rests for this many times the duration of the scan.
RESTS = 10


class KnownLetters:
    """Scans the queue when it changed, and remembers the letters of jobs that were open then."""

    def __init__(
        self, settings: Settings, store: JobStore, explainer: Explainer, stop: threading.Event
    ) -> None:
        """``stop`` ends a scan in progress."""
        self._settings = settings
        self._store = store
        self._explainer = explainer
        self._stop = stop
        self._letters: dict[str, list[FailedTask]] = {}
        #: The number of letters at the last scan; 0 once none was visible any more.
        self._scanned: int | None = None
        #: When that scan began, or the queue was last seen empty (seconds, monotonic).
        self.looked_at = -math.inf
        #: When the queue is scanned again although that number is the same (seconds, monotonic).
        self._scan_again = 0.0
        #: No scan before then: people who list the queue must not always find it held by sweeps.
        self._rest_until = 0.0

    def scan(self) -> Iterator[Finding]:
        """If the queue changed, give reasons to letters without one, and note the letters of open jobs."""
        started = time.monotonic()
        if started < self._rest_until:
            return
        with Listing(self._settings, Filter(place="sqs")) as listing:
            depth = listing.queue.depth().available
            if depth in (0, self._scanned) and time.monotonic() < self._scan_again:
                self._scanned = depth
                self.looked_at = self.looked_at if depth else started
                return
            letters: defaultdict[str, list[FailedTask]] = defaultdict(list)
            count = 0
            for batch in listing.batches():
                if self._stop.is_set():
                    return
                count += len(batch)
                for letter in self._explainer.explain(listing.scan, batch):
                    count -= 1
                    yield Finding(kind="explained", job_id=letter.job_id, text=_describe(letter))
                for failed in self._of_open_jobs(batch):
                    letters[failed.ref.job_id].append(failed)
            self._letters, self._scanned, self.looked_at = dict(letters), count, started
            self._scan_again = started + SCAN_EVERY
        self._rest_until = time.monotonic() + RESTS * (time.monotonic() - started)

    def scan_soon(self) -> None:
        """Scan next time, also if the number of letters is the same."""
        self._scan_again = 0.0

    def __contains__(self, job_id: str) -> bool:
        """Whether a job has dead letters."""
        return job_id in self._letters

    def unrecorded(self, job_id: str) -> Sequence[FailedTask]:
        """Return the dead letters that a job may not know."""
        return self._letters.get(job_id, [])

    def recorded(self, job_id: str) -> None:
        """Note that a job knows its letters, until the next scan. That it has letters still matters."""
        self._letters[job_id] = []

    def unseen(self) -> int:
        """Return about how many letters were not scanned: any of them may be of any job."""
        with Listing(self._settings, Filter(place="sqs")) as listing:
            depth = listing.queue.depth()
        return max(0, depth.available + depth.in_flight + depth.delayed - (self._scanned or 0))

    def _of_open_jobs(self, letters: Sequence[DeadLetter]) -> list[FailedTask]:
        failed = [each for letter in letters if letter.explained and (each := _failed(letter))]
        job_ids = {each.ref.job_id for each in failed}
        jobs = self._store.records.get_many(job_ids)
        running = {job.job_id for job in jobs if job.state is JobState.RUNNING}
        return [each for each in failed if each.ref.job_id in running]


def _failed(letter: DeadLetter) -> FailedTask | None:
    if letter.ref is None or not letter.task_id or not isinstance(letter.raw, ReceivedMessage):
        return None
    return failed_task(letter.ref, letter, letter.digest(letter.raw.body))


def _describe(letter: DeadLetter) -> str:
    return f"{letter.stage or letter.task or 'a message'} ({letter.part or letter.id}): {letter.reason}"
