"""The pass over the open jobs of a service, oldest first, cut into runs of a bounded time."""

import time
from collections.abc import Callable, Iterator

from pipeline.jobs import Job, JobListing

#: Jobs read at once.
PAGE = 100


class OpenJobs:
    """Gives out the idle jobs. Each run begins where the last one stopped.

    A run is bounded by time, not by a number of jobs: a table that answers fast has more of them examined.
    After a pass over all of them it rests for as long as the pass took. So of a million jobs that wait for an
    outage to end, not all are read again and again.
    """

    def __init__(self, listing: JobListing, clock: Callable[[], float] = time.monotonic) -> None:
        self._listing = listing
        self._clock = clock
        #: Where the next run begins; None: at the oldest job.
        self._after: str | None = None
        #: Seconds that the runs of this pass took so far.
        self._worked = 0.0
        self._rest_until = 0.0

    def idle(self, since: float, seconds: float | None = None) -> Iterator[Job]:
        """Yield jobs submitted and unchanged before ``since`` (seconds since 1970).

        ``seconds``: begin no further page after so long, and rest between two passes. None: all jobs, now.
        """
        started = self._clock()
        if seconds is not None and started < self._rest_until:
            return
        while True:
            page = self._listing.open_before(since, limit=PAGE, after=self._after)
            yield from (job for job in page.jobs if job.updated_at < since)
            self._after = page.next
            now = self._clock()
            if page.next is None:
                self._rest_until = now + self._worked + now - started
                self._worked = 0.0
                return
            if seconds is not None and now - started >= seconds:
                self._worked += now - started
                return
