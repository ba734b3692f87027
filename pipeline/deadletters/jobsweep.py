"""The sweep: finds jobs that stopped, reports why, and repairs those that can be repaired.

Every step may be repeated, and run by several processes at once.
"""

import threading
import time
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import chain
from typing import Self

from pipeline.author.registry import Registry
from pipeline.deadletters.examination import Examination
from pipeline.deadletters.explain import Explainer
from pipeline.deadletters.finding import STANDS_STILL, Finding
from pipeline.deadletters.knownletters import KnownLetters
from pipeline.deadletters.openjobs import OpenJobs, together
from pipeline.deadletters.probes import Probes, most_watched
from pipeline.errors import ConfigurationError
from pipeline.jobs import Job, JobState, JobStore
from pipeline.kafka import EventProducer
from pipeline.ledger import Dispatch, Ledger
from pipeline.patience import Patience
from pipeline.settings import Settings
from pipeline.sqs import SqsQueue, sqs_client
from pipeline.worker.settle.chords import Chords
from pipeline.worker.settle.deadletter import DeadLetters

#: Seconds without a change after which an open job is examined.
IDLE = 300.0
#: Seconds to wait at the end for records on their way to Kafka.
CLOSING = 5.0
#: Jobs that may be lost of which one read of the DLQ topic finds out: more than a run of the bridge's sweep
#: looks at.
MOST_SUSPECTS = 25_000
#: Jobs that stand still which are examined again in each run, so that an alert about them lasts.
MOST_STANDING = 1000


class JobSweep:
    """Scans the dead-letter queue and the open jobs.

    Remembers between runs the letters of the queue, and the jobs that are watched or stand still.
    """

    def __init__(self, settings: Settings, registry: Registry) -> None:
        if not settings.use_sqs_task_processing:
            raise ConfigurationError(
                "USE_SQS_TASK_PROCESSING is false: where the bridge runs the stages there is nothing to "
                "sweep, as it commits an event only after all its tasks. For a job that does not "
                'end, look at "pipeline monitor kafka" (is there lag, is a bridge running?) and the '
                "bridge's log. For tasks sent to SQS before, sweep with USE_SQS_TASK_PROCESSING=true "
                "while their workers run."
            )
        self._settings = settings
        self._registry = registry
        self._store = JobStore(settings)
        self._producer = EventProducer(settings, "sweep")
        self._patience = Patience()
        self._stop = threading.Event()
        client = sqs_client(settings)
        queue_named = cache(lambda name: SqsQueue(client, settings.queue_url(name)))
        dispatch = Dispatch(settings, registry, queue_named, self._patience)
        self._ledger = Ledger(settings, self._store, self._producer, self._patience, dispatch)
        chords = Chords(self._store.chords, self._patience)
        dead_letters = DeadLetters(settings, self._ledger, chords, self._patience)
        explainer = Explainer(self._store, dead_letters)
        self._letters = KnownLetters(settings, self._store, explainer, self._stop)
        self._probes = Probes(queue_named=queue_named)
        self._open_jobs = OpenJobs(self._store.listing, self._store.passes, self._stop.wait)
        #: Jobs that stood still in the last run.
        self._standing: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def stop(self) -> None:
        """End a run in progress, from any thread: it waits for no service any longer."""
        self._stop.set()
        self._patience.end()

    def close(self) -> None:
        """Close the clients."""
        self._producer.close(CLOSING)

    def run(self, idle: float = IDLE, seconds: float | None = None) -> Iterator[Finding]:
        """Yield the findings.

        ``idle``: seconds since its submission and its last change, before a job is examined. ``seconds``: how
        long to go on with the pass over the open jobs, at its pace; the next run continues after them. None:
        all of them, as fast as they are read.
        """
        yield from self._letters.scan()
        standing, self._standing = self._standing, set()
        for finding in self._examined(standing, time.time() - idle, seconds):
            if self._stop.is_set():
                return
            if finding.job_id and finding.kind in STANDS_STILL and len(self._standing) < MOST_STANDING:
                self._standing.add(finding.job_id)
            yield finding

    def _examined(self, standing: set[str], since: float, seconds: float | None) -> Iterator[Finding]:
        examination = Examination(
            self._settings, self._registry, self._store, self._ledger, self._letters, self._probes
        )
        seen: set[str] = set()
        again = ((jobs, False) for jobs in self._again(standing, since))
        to_watch = ((jobs, True) for jobs in self._to_watch(since))
        for jobs, watch in chain(again, to_watch):
            yield from examination.of([job for job in jobs if job.job_id not in seen], watch=watch)
            seen |= {job.job_id for job in jobs}
            if self._stop.is_set():
                return
        every = self._open_jobs.all(since) if seconds is None else self._open_jobs.run(since, seconds)
        for jobs in every:
            yield from examination.of([job for job in jobs if job.job_id not in seen])
            if self._stop.is_set():
                return
            if examination.suspects >= MOST_SUSPECTS:
                yield from examination.judge()
        yield from examination.judge()

    def _to_watch(self, since: float) -> Iterator[Sequence[Job]]:
        """Yield the jobs whose turn it is to be watched, as long as fewer are than may be."""
        known = self._store.passes.load()
        most = most_watched(known.open_jobs if known else 0)
        yield from self._open_jobs.next_ones(since, most, lambda: most - len(self._probes.watched))

    def _again(self, standing: set[str], since: float) -> Iterator[Sequence[Job]]:
        """Yield the jobs that are watched or stood still; watch those no longer that do not run any more."""
        wanted = [*self._probes.watched, *(standing - set(self._probes.watched))]
        jobs = self._store.records.get_now(wanted)
        running = [job for job in jobs.values() if job.state is JobState.RUNNING]
        for job_id in set(wanted) - {job.job_id for job in running}:
            self._probes.forget(job_id)
        yield from together(running, since)
