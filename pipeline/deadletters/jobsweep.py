"""The sweep: finds jobs that stopped, reports why, and repairs those that can be repaired.

Every step may be repeated, and run by several processes at once.
"""

import math
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal, Self

import structlog

from pipeline.author.registry import Registry
from pipeline.deadletters.awaited import UnknownTasksError, find_awaited
from pipeline.deadletters.explain import Explainer
from pipeline.deadletters.letter import DeadLetter, Filter
from pipeline.deadletters.listing import Listing
from pipeline.deadletters.openjobs import OpenJobs
from pipeline.deadletters.probes import Probes
from pipeline.deadletters.traffic import Traffic, read_traffic
from pipeline.errors import ConfigurationError, PipelineError
from pipeline.jobs import Closing, FailedTask, Job, JobState, JobStore, SplitFilled, StageProgress
from pipeline.kafka import EventProducer
from pipeline.ledger import Dispatch, Ledger
from pipeline.patience import Patience
from pipeline.settings import Settings
from pipeline.sqs import ReceivedMessage, SqsQueue, sqs_client
from pipeline.worker.settle.deadletter import DeadLetters
from pipeline.worker.settle.outgoingletter import failed_task

log = structlog.get_logger(__name__)

#: Seconds without a change after which an open job is examined.
IDLE = 300.0
#: Seconds after which the dead-letter queue is scanned although its depth is the same.
SCAN_EVERY = 900.0
#: After a scan the queue rests for this many times the duration of the scan.
RESTS = 10
#: Seconds to wait at the end for records on their way to Kafka.
CLOSING = 5.0

#: "explained": a dead letter without a reason has one now. "closed": an ended split or job was closed.
#: "recorded": dead letters that its job did not know are recorded. "waiting": its tasks or events wait or
#: run, or a dead letter that another process reads may be its own. "redrive": a redrive of its dead letters
#: was cut short. "lost": nothing of it is anywhere. "failed": it could not be examined or repaired.
Kind = Literal["explained", "closed", "recorded", "waiting", "redrive", "lost", "failed"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One finding of a sweep, and its repair."""

    kind: Kind
    #: None for a dead letter of no job.
    job_id: str | None
    #: For people.
    text: str


class JobSweep:
    """Scans the dead-letter queue and the open jobs. Remembers the letters of the queue between runs."""

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
        self._probes = Probes(queue_named=queue_named, are_received=self._store.markers.received)
        self._ledger = Ledger(settings, self._store, self._producer, self._patience, dispatch)
        self._explainer = Explainer(self._store, DeadLetters(settings, self._ledger, self._patience))
        #: Dead letters of jobs that were open at the last scan of the queue.
        self._letters: dict[str, list[FailedTask]] = {}
        #: The number of letters at that scan; 0 once none was visible any more.
        self._scanned: int | None = None
        #: When that scan began, or the queue was last seen empty (seconds, monotonic).
        self._looked_at = -math.inf
        #: When the queue is scanned again although that number is the same (seconds, monotonic).
        self._scan_again = 0.0
        #: No scan before then: people who list the queue must not always find it held by sweeps.
        self._rest_until = 0.0
        self._open_jobs = OpenJobs(self._store.listing)

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
        long to examine open jobs; the next run continues after them. None: all of them.
        """
        yield from self._explain()
        self._forget_probes()
        traffic: list[Traffic] = []

        def traffic_now() -> Traffic:
            if not traffic:
                traffic.append(read_traffic(self._settings, self._registry))
            return traffic[0]

        missing: dict[str, str] = {}
        for job in self._open_jobs.idle(time.time() - idle, seconds):
            if self._stop.is_set():
                return
            try:
                finding = self._examine(job, traffic_now, missing)
            except PipelineError as error:
                finding = Finding(kind="failed", job_id=job.job_id, text=str(error))
            if finding is not None:
                yield finding
        if missing and not self._stop.is_set():
            yield from self._judge(missing)

    # ─── The dead-letter queue ───

    def _explain(self) -> Iterator[Finding]:
        """If the queue changed, give reasons to letters without one, and note the letters of open jobs."""
        started = time.monotonic()
        if started < self._rest_until:
            return
        with Listing(self._settings, Filter(place="sqs")) as listing:
            depth = listing.queue.depth().available
            if depth in (0, self._scanned) and time.monotonic() < self._scan_again:
                self._scanned = depth
                self._looked_at = self._looked_at if depth else started
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
            self._letters, self._scanned, self._looked_at = dict(letters), count, started
            self._scan_again = started + SCAN_EVERY
        self._rest_until = time.monotonic() + RESTS * (time.monotonic() - started)

    def _of_open_jobs(self, letters: Sequence[DeadLetter]) -> list[FailedTask]:
        failed = [each for letter in letters if letter.explained and (each := _failed(letter))]
        job_ids = {each.ref.job_id for each in failed}
        jobs = self._store.records.get_many(job_ids)
        running = {job.job_id for job in jobs if job.state is JobState.RUNNING}
        return [each for each in failed if each.ref.job_id in running]

    # ─── Open jobs ───

    def _examine(
        self, job: Job, traffic_now: Callable[[], Traffic], missing: dict[str, str]
    ) -> Finding | None:
        """Return the finding about a job; None for one that ended by itself meanwhile.

        None also for a job of which nothing is on a queue or topic: it is put into ``missing`` with its
        progress.
        """
        closings = self._store.resumption.resume(job.job_id)
        if closings:
            return self._close(job, closings)
        recorded = self._record(job)
        if recorded is not None:
            return recorded
        found = self._store.listing.progress(job.job_id, exact=True)
        if found is None or found[0].state is not JobState.RUNNING:
            return None
        unfinished = [stage for stage in found[1] if stage.state != "done"]
        words = traffic_now().of(self._settings, self._registry, (stage.stage for stage in unfinished))
        where = _progress(unfinished)
        if words and not self._is_gone(*found, traffic_now()):
            return Finding(kind="waiting", job_id=job.job_id, text=f"{where}; {words}")
        missing[job.job_id] = where
        return None

    def _judge(self, missing: Mapping[str, str]) -> Iterator[Finding]:
        """Find out which of these jobs have dead letters; the others are lost, if all letters can be seen."""
        with Listing(self._settings, Filter(place="kafka")) as listing:
            rejected = listing.jobs_with_events(missing)
        unseen = self._unseen()
        jobs = self._store.records.get_now(missing)
        for job_id, where in missing.items():
            if job_id not in jobs or jobs[job_id].state is not JobState.RUNNING:
                continue
            if job_id in rejected or job_id in self._letters:
                repeat = f"pipeline dlq redrive --job {job_id}"
                text = f"{where}; a redrive of its dead letters was cut short: {repeat}"
                yield Finding(kind="redrive", job_id=job_id, text=text)
            elif unseen:
                text = f"{where}; {unseen:,} dead letters are being read by another process, or are new"
                yield Finding(kind="waiting", job_id=job_id, text=text)
            else:
                text = f"{where}; nothing of it is on a queue, on a topic or a dead letter"
                yield Finding(kind="lost", job_id=job_id, text=text)

    def _is_gone(self, job: Job, progress: Sequence[StageProgress], traffic: Traffic) -> bool:
        """Whether no task of a job is left among the others on its queues, and the dead letters are known."""
        try:
            since = self._probes.look(
                job,
                progress,
                traffic,
                lambda: find_awaited(self._settings, self._registry, self._store, job, progress),
            )
        except UnknownTasksError as error:
            log.debug("sweep.not_probed", job_id=job.job_id, why=str(error))
            return False
        if since is None:
            return False
        if self._looked_at < since:
            # What SQS or a worker moved away meanwhile must be seen.
            self._scan_again = 0.0
            return False
        self._probes.forget(job.job_id)
        return True

    def _forget_probes(self) -> None:
        probed = self._probes.probed
        if probed:
            jobs = self._store.records.get_many(probed)
            self._probes.keep([job.job_id for job in jobs if job.state is JobState.RUNNING])

    def _close(self, job: Job, closings: Sequence[Closing]) -> Finding:
        splits = [closing.split for closing in closings if isinstance(closing, SplitFilled)]
        if unknown := {split.stage for split in splits if split.stage not in self._registry.by_name}:
            text = f"its parts are done, but no module in TASK_MODULES defines {', '.join(sorted(unknown))}"
            return Finding(kind="failed", job_id=job.job_id, text=text)
        self._ledger.close(closings)
        done = [f"the gather of {split.stage} is sent" for split in splits]
        if len(closings) > len(splits):
            done.append("its end is announced")
        return Finding(kind="closed", job_id=job.job_id, text=" and ".join(done))

    def _record(self, job: Job) -> Finding | None:
        """Record dead letters that the job may not know; return None if it knew them all."""
        letters = self._letters.get(job.job_id, [])
        done = (
            self._store.resumption.already_done({each.ref for each in letters}).refs
            if letters
            else frozenset()
        )
        failed = [each for each in letters if each.ref not in done]
        if not failed:
            return None
        self._ledger.close(self._ledger.fail(failed).closings)
        # Known now, until the next scan; that the job has letters still matters.
        self._letters[job.job_id] = []
        after = self._store.records.get(job.job_id)
        if after is None or after.state is JobState.RUNNING:
            return None
        text = f"{len(failed)} dead letters are recorded, and it is {after.state.value}"
        return Finding(kind="recorded", job_id=job.job_id, text=text)

    def _unseen(self) -> int:
        """Return about how many letters were not scanned: any of them may be of any job."""
        with Listing(self._settings, Filter(place="sqs")) as listing:
            depth = listing.queue.depth()
        return max(0, depth.available + depth.in_flight + depth.delayed - (self._scanned or 0))


def _failed(letter: DeadLetter) -> FailedTask | None:
    if letter.ref is None or not letter.task_id or not isinstance(letter.raw, ReceivedMessage):
        return None
    return failed_task(letter.ref, letter, letter.digest(letter.raw.body))


def _describe(letter: DeadLetter) -> str:
    return f"{letter.stage or letter.task or 'a message'} ({letter.part or letter.id}): {letter.reason}"


def _progress(stages: Sequence[StageProgress]) -> str:
    return ", ".join(f"{stage.stage} {stage.done}/{stage.total}" for stage in stages)
