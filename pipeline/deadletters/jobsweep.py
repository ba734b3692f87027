"""The sweep: finds jobs that stopped moving, says why, and mends what can be mended.

All it does can be done twice, and by several processes at once.
"""

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Self

import structlog

from config.settings import Settings
from pipeline.deadletters.explain import Explainer
from pipeline.deadletters.filters import Filter
from pipeline.deadletters.letter import DeadLetter
from pipeline.deadletters.look import Look
from pipeline.errors import ConfigurationError, PipelineError
from pipeline.jobs import Closing, Failed, Job, JobState, JobStore, SplitFilled, StageProgress
from pipeline.kafka import EventProducer
from pipeline.patience import Patience
from pipeline.registry import Registry
from pipeline.sqs import SqsQueue, sqs_client
from pipeline.sweep.finding import Finding
from pipeline.sweep.traffic import Traffic, read_traffic
from pipeline.worker.closing import Closer
from pipeline.worker.deadletter import DeadLetters
from pipeline.worker.dispatch import Dispatch

log = structlog.get_logger(__name__)

#: Seconds after which a job that did not end is looked at.
IDLE = 300.0
#: Seconds after which the dead-letter queue is gone through although it holds as many letters as before.
WALK_EVERY = 900.0
#: After going through it, it is left alone for so many times as long as that took.
RESTS = 10
#: Jobs read at once.
PAGE = 100
#: Seconds to wait for what is still on its way to Kafka at the end.
CLOSING = 5.0


class Sweep:
    """Goes through the dead-letter queue and the open jobs. What it learns of the queue it keeps."""

    def __init__(self, settings: Settings, registry: Registry) -> None:
        if not settings.use_sqs_task_processing:
            raise ConfigurationError(
                "USE_SQS_TASK_PROCESSING is false: where the bridge runs the stages there is nothing to "
                "sweep, as it commits an event only when nothing is left of it. For a job that does not "
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
        dispatch = Dispatch(settings, lambda name: SqsQueue(client, settings.queue_url(name)), self._patience)
        self._closer = Closer(settings, registry, self._store, self._producer, dispatch, self._patience)
        self._dead_letters = DeadLetters(settings, self._store, self._producer, self._closer, self._patience)
        self._explainer = Explainer(self._store, self._dead_letters)
        #: Dead letters of jobs that were open when the queue was last gone through.
        self._letters: dict[str, list[Failed]] = {}
        #: How many letters it had then; 0 once none could be seen any more.
        self._walked: int | None = None
        #: When it is gone through though that number is the same (seconds, monotonic).
        self._walk_again = 0.0
        #: Before then it is left alone: who looks at it must not find it held by sweeps all the time.
        self._rest_until = 0.0
        #: Where the next pass over the open jobs goes on.
        self._after: str | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def stop(self) -> None:
        """End a run that is going on, from any thread: it waits for no service any longer."""
        self._stop.set()
        self._patience.end()

    def close(self) -> None:
        """Let go of the clients."""
        self._producer.close(CLOSING)

    def run(self, idle: float = IDLE, most: int | None = None) -> Iterator[Finding]:
        """Everything found. Of the open jobs at most ``most`` are looked at; the next run goes on from there.

        ``idle``: seconds since its submission and its last change, before a job is looked at.
        """
        yield from self._explain()
        traffic: list[Traffic] = []

        def under_way() -> Traffic:
            if not traffic:
                traffic.append(read_traffic(self._settings, self._registry))
            return traffic[0]

        for job in self._idle_jobs(time.time() - idle, most):
            if self._stop.is_set():
                return
            try:
                finding = self._look_at(job, under_way)
            except PipelineError as error:
                finding = Finding(kind="failed", job_id=job.job_id, text=str(error))
            if finding is not None:
                yield finding

    # ─── The dead-letter queue ───

    def _explain(self) -> Iterator[Finding]:
        """When it changed: give reasons where there are none, and note the letters of open jobs."""
        started = time.monotonic()
        if started < self._rest_until:
            return
        with Look(self._settings, Filter(place="sqs")) as look:
            depth = look.queue.depth().available
            if depth in (0, self._walked) and time.monotonic() < self._walk_again:
                self._walked = depth
                return
            letters: defaultdict[str, list[Failed]] = defaultdict(list)
            count = 0
            for batch in look.batches():
                if self._stop.is_set():
                    return
                count += len(batch)
                for letter in self._explainer.explain(look.walk, batch):
                    count -= 1
                    yield Finding(kind="explained", job_id=letter.job_id, text=_named(letter))
                for failed in self._of_open_jobs(batch):
                    letters[failed.ref.job_id].append(failed)
            self._letters, self._walked = dict(letters), count
            self._walk_again = started + WALK_EVERY
        self._rest_until = time.monotonic() + RESTS * (time.monotonic() - started)

    def _of_open_jobs(self, letters: Sequence[DeadLetter]) -> list[Failed]:
        failed = [each for letter in letters if letter.explained and (each := _failed(letter))]
        named = {each.ref.job_id for each in failed}
        running = {job.job_id for job in self._store.jobs_named(named) if job.state is JobState.RUNNING}
        return [each for each in failed if each.ref.job_id in running]

    # ─── Open jobs ───

    def _idle_jobs(self, since: float, most: int | None) -> Iterator[Job]:
        looked_at = 0
        while most is None or looked_at < most:
            limit = PAGE if most is None else min(PAGE, most - looked_at)
            page = self._store.open_before(since, limit=limit, after=self._after)
            yield from (job for job in page.jobs if job.updated_at < since)
            looked_at += limit
            self._after = page.next
            if page.next is None:
                return

    def _look_at(self, job: Job, under_way: Callable[[], Traffic]) -> Finding | None:
        """None when it ended by itself meanwhile."""
        closings = self._store.resume(job.job_id)
        if closings:
            return self._close(job, closings)
        recorded = self._record(job)
        if recorded is not None:
            return recorded
        found = self._store.progress(job.job_id)
        if found is None or found[0].state is not JobState.RUNNING:
            return None
        unfinished = [stage for stage in found[1] if stage.state != "done"]
        words = under_way().of(self._settings, self._registry, (stage.stage for stage in unfinished))
        where = _where(unfinished)
        if words:
            return Finding(kind="waiting", job_id=job.job_id, text=f"{where}; {words}")
        if self._has_letters(job.job_id):
            repeat = f"pipeline dlq redrive --job {job.job_id}"
            text = f"{where}; a redrive of its dead letters was cut short: {repeat}"
            return Finding(kind="redrive", job_id=job.job_id, text=text)
        if unseen := self._unseen():
            text = f"{where}; {unseen:,} dead letters are held by somebody who looks at them, or are new"
            return Finding(kind="waiting", job_id=job.job_id, text=text)
        text = f"{where}; nothing of it is on a queue, on a topic or a dead letter"
        return Finding(kind="lost", job_id=job.job_id, text=text)

    def _close(self, job: Job, closings: Sequence[Closing]) -> Finding:
        splits = [closing.split for closing in closings if isinstance(closing, SplitFilled)]
        if unknown := {split.stage for split in splits if split.stage not in self._registry.by_name}:
            text = f"its parts are done, and no module in TASK_MODULES has {', '.join(sorted(unknown))}"
            return Finding(kind="failed", job_id=job.job_id, text=text)
        self._closer.close(closings)
        done = [f"the gather of {split.stage} is sent" for split in splits]
        if len(closings) > len(splits):
            done.append("its end is announced")
        return Finding(kind="closed", job_id=job.job_id, text=" and ".join(done))

    def _record(self, job: Job) -> Finding | None:
        """Record the dead letters its job may not know of; None when it knew them all."""
        letters = self._letters.get(job.job_id, [])
        done = self._store.already_done({each.ref for each in letters}).refs if letters else frozenset()
        failed = [each for each in letters if each.ref not in done]
        if not failed:
            return None
        self._dead_letters.record(failed)
        # Known now, until the queue is gone through again; that it has some is still of interest.
        self._letters[job.job_id] = []
        after = self._store.job(job.job_id)
        if after is None or after.state is JobState.RUNNING:
            return None
        text = f"{len(failed)} dead letters are recorded, and it is {after.state.value}"
        return Finding(kind="recorded", job_id=job.job_id, text=text)

    def _has_letters(self, job_id: str) -> bool:
        if job_id in self._letters:
            return True
        with Look(self._settings, Filter(job_id=job_id, place="kafka")) as look:
            return next(look.letters(), None) is not None

    def _unseen(self) -> int:
        """About how many letters of the queue were not gone through: any of them may be of any job."""
        with Look(self._settings, Filter(place="sqs")) as look:
            depth = look.queue.depth()
        return max(0, depth.available + depth.in_flight + depth.delayed - (self._walked or 0))


def _failed(letter: DeadLetter) -> Failed | None:
    if letter.ref is None or letter.task_id is None:
        return None
    return Failed(
        ref=letter.ref,
        task_id=letter.task_id,
        error=letter.error,
        message=letter.reason,
        attempts=letter.attempts,
        failed_at=letter.failed_at,
        generation=letter.generation,
    )


def _named(letter: DeadLetter) -> str:
    return f"{letter.stage or letter.task or 'a message'} ({letter.part or letter.id}): {letter.reason}"


def _where(stages: Sequence[StageProgress]) -> str:
    return ", ".join(f"{stage.stage} {stage.done}/{stage.total}" for stage in stages)
