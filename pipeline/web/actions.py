"""What the jobs page and its API do: the same that the commands do, within the time of a request.

Each method may block (``Live.act``) and raises a ServiceError for what is away. What takes longer than a
request may is broken off between two steps, says so, and goes on when it is asked for again.
"""

import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import TypeVar

from config.settings import Settings
from consumers.replay import Replay, ReplayId, Window
from pipeline.cancelling import cancel_job
from pipeline.deadletters import Filter, Look, Redriver, redrive_all, remove_all
from pipeline.deadletters.told import is_told_id
from pipeline.errors import InvalidEventError
from pipeline.jobs import Job, JobStore
from pipeline.kafka import EventProducer
from pipeline.registry import Registry
from pipeline.submission import Submission, SubmittedJob, Submitter
from pipeline.web.letters import Letters
from pipeline.web.model import ReplayTally, Tally, Trouble

#: Seconds after which an action on many is broken off.
TIME = 20.0

#: Troubles that are told one by one.
TOLD = 50

#: Seconds that events are older than the clock of who submitted a job says, at most.
SKEW = 60.0

#: Seconds to wait for what is still on its way to Kafka at the end.
CLOSING = 5.0

T = TypeVar("T")


class Actions:
    """The actions on one service. Threads may share it. It has a Kafka producer once it was needed."""

    def __init__(self, settings: Settings, registry: Registry, store: JobStore, letters: Letters) -> None:
        self._settings = settings
        self._registry = registry
        self._store = store
        self._letters = letters
        self._making = threading.Lock()
        self._made: EventProducer | None = None

    def close(self) -> None:
        """Send what is on its way."""
        with self._making:
            if self._made is not None:
                self._made.close(CLOSING)

    # ─── Jobs ───

    def submit(self, start: str, data: bytes, entity_id: str | None) -> SubmittedJob:
        """Start a job with an event for a stage, or on a topic.

        Raises InvalidEventError and InvalidInputError for what could only fail.
        """
        submitter = Submitter(self._settings, self._registry, self._store, self._producer(), start)
        submission = Submission(data=data, entity_id=entity_id)
        submitter.check(submission)
        (answer,) = submitter.submit([submission])
        if isinstance(answer, SubmittedJob):
            return answer
        raise answer

    def cancel(self, job_id: str) -> Job | None:
        """Cancel a job that runs; the job as it is then, None when there is none."""
        return cancel_job(self._settings, self._store, self._producer(), job_id)

    def replay(self, job: Job, stage_name: str, again: bool) -> ReplayTally:
        """Send a stage's task of a job again, from the event that its topic still has.

        What is done stays done, unless ``again``: then the event is a new one, with a job of its own. Raises
        InvalidEventError for a stage that the job does not pass through.
        """
        stage = self._registry.by_name.get(stage_name)
        if stage is None or stage_name not in job.plan.stages:
            raise InvalidEventError(f"Job {job.job_id} passes through no stage {stage_name!r}.")
        replay_id = ReplayId.new() if again else None
        replay = Replay(self._settings, self._registry, self._store, stage, replay_id)
        window = Window(begin=job.submitted_at - SKEW, end=time.time() + SKEW, of_job=job.job_id)
        counts: Counter[str] = Counter()
        troubles: list[Trouble] = []
        try:
            answers = _Timed(replay.run(window, dry=False))
            new_job = job.job_id
            for replayed in answers:
                counts[replayed.outcome] += 1
                new_job = replayed.found.job_id or new_job
                if replayed.why:
                    at = f"{replay.topic}:{replayed.found.partition}:{replayed.found.offset}"
                    troubles.append(Trouble(id=at, why=replayed.why))
        finally:
            replay.close()
        return ReplayTally(
            sent=counts["sent"], job_id=new_job, troubles=troubles[:TOLD], finished=answers.finished
        )

    # ─── Dead letters ───

    def redrive(self, wanted: Filter, *, out_of_order: bool = False) -> Tally:
        """Put dead letters back where they came from; their jobs run again.

        ``out_of_order``: also those of ordered stages, although later tasks of their entity have run.
        """
        with self._letters.turn(), Look(self._settings, wanted) as look:
            redriver = Redriver(
                self._settings,
                self._registry,
                self._store,
                self._producer(),
                look.walk,
                out_of_order=out_of_order,
            )
            return _tally(
                [(each.letter.id, each.outcome, each.why) for each in answers]
                for answers in redrive_all(look, redriver, collecting=TIME / 2)
            )

    def purge(self, wanted: Filter, queue: str) -> Tally:
        """Remove dead letters for good. Raises ValueError unless ``queue`` names their queue."""
        if queue != self.dead_letter_queue:
            raise ValueError(f"The dead-letter queue is {self.dead_letter_queue}, not {queue}.")
        if wanted.place == "errors" or any(map(is_told_id, wanted.ids)):
            raise ValueError("What the errors topic tells cannot be removed: Kafka does, after 30 days.")
        with self._letters.turn(), Look(self._settings, wanted) as look:
            return _tally(
                [(letter.id, "failed" if error else "purged", str(error or "")) for letter, error in answers]
                for answers in remove_all(look, self._producer(), "purged")
            )

    @property
    def dead_letter_queue(self) -> str:
        """The name that must be typed to purge."""
        return self._settings.sqs_dlq_url.rsplit("/", 1)[1]

    def _producer(self) -> EventProducer:
        with self._making:
            if self._made is None:
                self._made = EventProducer(self._settings, "web")
            return self._made


class _Timed(Iterator[T]):
    """What an iterator gives until the time of a request is over."""

    def __init__(self, answers: Iterable[T]) -> None:
        self._answers = iter(answers)
        self._deadline = time.monotonic() + TIME
        self.finished = False

    def __next__(self) -> T:
        if time.monotonic() > self._deadline:
            raise StopIteration
        try:
            return next(self._answers)
        except StopIteration:
            self.finished = True
            raise


def _tally(answers: Iterable[list[tuple[str, str, str]]]) -> Tally:
    """Id, outcome and reason of each letter, summed up; of those done together all or none."""
    timed = _Timed(answers)
    counts: Counter[str] = Counter()
    troubles: list[Trouble] = []
    for letter_id, outcome, why in chain.from_iterable(timed):
        counts[outcome] += 1
        if why and len(troubles) < TOLD:
            troubles.append(Trouble(id=letter_id, why=why))
    return Tally(counts=dict(counts), troubles=troubles, finished=timed.finished)
