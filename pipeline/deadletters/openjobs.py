"""The pass over the open jobs of a service, oldest first, cut into runs of a bounded time."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice

from pipeline.jobs import TOGETHER, Job, JobListing, Pass, Passes

#: Jobs listed at once. Each list asks every shard of the index: of 64 shards that is a request for two jobs.
PAGE = 200

#: Seconds within which a pass is to end; and those of them in which it works, a run of half a minute each
#: minute, with a tenth to spare.
WITHIN = 3600.0
WORKS = WITHIN / 2 * 0.9

#: Jobs a second while a run works: at least so many, and at most. One takes 1.5 read units if its small items
#: are 4 KB at most, so the most take 1,140 a second, a tenth of the 12,000 of a new table (DynamoDB developer
#: guide, "Understanding DynamoDB warm throughput"), and half of that on average. It costs 0.5 ms of CPU.
LEAST, MOST = 30.0, 750.0

#: The open jobs that a pass can take in within ``WITHIN``.
MOST_JOBS = int(MOST * WORKS)


def pace(open_jobs: int) -> float:
    """Return the jobs a second that a run looks at, so that a pass over so many ends in time."""
    return min(MOST, max(LEAST, open_jobs / WORKS))


class OpenJobs:
    """Gives out the idle jobs. Each run begins where the last one stopped, in whichever process that was.

    Few jobs are looked at slowly and often, many at the pace that a pass within an hour needs. After a pass
    it rests for as long as its runs took. So of a million jobs that wait for an outage to end, not all are
    read again and again.
    """

    def __init__(
        self,
        listing: JobListing,
        passes: Passes,
        wait: Callable[[float], object],
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """``wait`` waits for so many seconds, and may return early at the end of the process.

        ``clock`` measures durations; ``wall`` gives the seconds since 1970.
        """
        self._listing = listing
        self._passes = passes
        self._wait = wait
        self._clock = clock
        self._wall = wall
        #: The job that is watched next; None: the oldest one.
        self._next: str | None = None

    def all(self, since: float) -> Iterator[Sequence[Job]]:
        """Yield all jobs submitted and unchanged before ``since`` (seconds since 1970), a few at a time.

        As fast as they are read, beside the recorded pass.
        """
        after: str | None = None
        while True:
            page = self._listing.open_before(since, limit=PAGE, after=after)
            yield from together(page.jobs, since)
            after = page.next
            if after is None:
                return

    def next_ones(self, since: float, most: int, room: Callable[[], int]) -> Iterator[Sequence[Job]]:
        """Yield the idle jobs whose turn it is to be watched, as many as there is room for, a few at a time.

        About ``most`` at most, which may all be of no use. They are taken in order, and anew from the oldest
        one after the newest: each has its turn, however many wait for theirs.
        """
        for _ in range(0, most, PAGE):
            if (limit := min(PAGE, room())) <= 0:
                return
            page = self._listing.open_before(since, limit=limit, after=self._next)
            self._next = page.next
            yield from together(page.jobs, since)
            if page.next is None:
                return

    def run(self, since: float, seconds: float) -> Iterator[Sequence[Job]]:
        """Yield the next of them for so many seconds, at the pace; none while the pass rests."""
        started, now = self._clock(), self._wall()
        current = self._passes.load() or Pass(began_at=now)
        if current.rests(now):
            return
        if current.after is None:
            current = replace(current, began_at=now, seen=0, worked=0.0)
        earlier = current.worked
        while self._clock() - started < seconds:
            begun = self._clock()
            page = self._listing.open_before(since, limit=PAGE, after=current.after)
            yield from self._paced(page.jobs, since, begun, pace(current.expected))
            worked, seen = earlier + self._clock() - started, current.seen + len(page.jobs)
            current = replace(current, after=page.next, seen=seen, worked=worked)
            if page.next is None:
                current = current.ended(self._wall())
                break
        self._passes.save(current)

    def _paced(self, jobs: Sequence[Job], since: float, begun: float, pace: float) -> Iterator[Sequence[Job]]:
        given = 0
        for some in together(jobs, since):
            yield some
            given += len(some)
            if (early := begun + given / pace - self._clock()) > 0:
                self._wait(early)


def together(jobs: Iterable[Job], since: float) -> Iterator[list[Job]]:
    """Yield the jobs that are unchanged since a moment, as many at a time as are looked at together."""
    idle = (job for job in jobs if job.updated_at < since)
    while some := list(islice(idle, TOGETHER)):
        yield some
