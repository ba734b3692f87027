"""The actions of the jobs page: what each does, and the table that the API and the forms are made from.

The methods of ``Actions`` may block and raise a ServiceError when a service is away. An action that takes
longer than a request may is interrupted between two steps, says so, and continues when it is repeated.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any, Generic, Literal, TypeVar

from pipeline.author.registry import Registry
from pipeline.bridge.replay import Replay, ReplayId, Window
from pipeline.client.submission import Submission, SubmittedJob, Submitter
from pipeline.deadletters import Filter, Listing, Redriver, place_of, redrive_all, remove_all
from pipeline.errors import InvalidEventError, PipelineError
from pipeline.jobs import Job, JobStore
from pipeline.kafka import EventProducer
from pipeline.ledger import Ledger
from pipeline.patience import Patience
from pipeline.settings import Settings
from pipeline.web import notices
from pipeline.web.letters import Letters
from pipeline.web.model import ReplayTally, Tally, Trouble
from pipeline.web.notices import Notice
from pipeline.web.requests import (
    ActionRequest,
    JobRedriveRequest,
    JobRequest,
    PurgeRequest,
    RedriveRequest,
    ReplayRequest,
    SubmitRequest,
)

#: Seconds after which an action on many dead letters is interrupted.
TIME = 20.0

#: Troubles that a result lists.
LISTED = 50

#: Seconds that an event's time may differ from the job's submission: they are written on two clocks.
SKEW = 60.0

#: Seconds to wait for unacknowledged records at the end.
CLOSING = 5.0

T = TypeVar("T")
RequestT = TypeVar("RequestT", bound=ActionRequest)
ResultT = TypeVar("ResultT")


class NotFoundError(PipelineError):
    """The job of a request does not exist."""


class ActionRefusedError(PipelineError):
    """A request asks for something that this action does not do."""


class Actions:
    """The actions on one service. Threads may share it. It makes its Kafka producer on first use."""

    def __init__(self, settings: Settings, registry: Registry, store: JobStore, letters: Letters) -> None:
        self._settings = settings
        self._registry = registry
        self._store = store
        self._letters = letters
        self._lock = threading.Lock()
        self._started: EventProducer | None = None

    def close(self) -> None:
        """Send unacknowledged records."""
        with self._lock:
            if self._started is not None:
                self._started.close(CLOSING)

    # ─── Jobs ───

    def submit(self, start: str, data: bytes, entity_id: str | None, key: str | None) -> SubmittedJob:
        """Start a job with an event for a stage, or on a topic.

        Raises InvalidEventError and InvalidInputError for an event that could only fail.
        """
        submitter = Submitter(self._settings, self._registry, self._store, self._producer(), start)
        submission = Submission(data=data, entity_id=entity_id, key=key)
        submitter.check(submission)
        (answer,) = submitter.submit([submission])
        if isinstance(answer, SubmittedJob):
            return answer
        raise answer

    def cancel(self, job_id: str) -> Job:
        """Cancel a running job; return it as it is then."""
        ledger = Ledger(self._settings, self._store, self._producer(), Patience(waits=False))
        job = ledger.cancel(job_id)
        if job is None:
            raise NotFoundError(f"There is no job {job_id}.")
        return job

    def replay(self, job_id: str, stage_name: str, again: bool) -> ReplayTally:
        """Send a stage's task of a job again, from the event that its topic still has.

        Finished tasks stay finished; with ``again`` the event is a new one, in a job of its own. Raises
        InvalidEventError for a stage that the job does not pass through.
        """
        job = self._job(job_id)
        stage = self._registry.by_name.get(stage_name)
        if stage is None or stage_name not in job.plan.stages:
            raise InvalidEventError(f"Job {job_id} does not pass through a stage {stage_name!r}.")
        replay = Replay(self._settings, self._registry, self._store, stage, ReplayId.new() if again else None)
        window = Window(begin=job.submitted_at - SKEW, end=time.time() + SKEW, of_job=job_id)
        counts: Counter[str] = Counter()
        troubles: list[Trouble] = []
        try:
            answers = _Timed(replay.run(window, dry=False))
            new_job = job_id
            for replayed in answers:
                counts[replayed.outcome] += 1
                new_job = replayed.found.job_id or new_job
                if replayed.why:
                    at = f"{replayed.found.topic}:{replayed.found.partition}:{replayed.found.offset}"
                    troubles.append(Trouble(id=at, why=replayed.why))
        finally:
            replay.close()
        return ReplayTally(
            sent=counts["sent"], job_id=new_job, troubles=troubles[:LISTED], finished=answers.finished
        )

    def redrive_job(self, job_id: str, *, out_of_order: bool) -> Tally:
        """Redrive all dead letters of a job."""
        return self.redrive(Filter(job_id=self._job(job_id).job_id), out_of_order=out_of_order)

    def _job(self, job_id: str) -> Job:
        job = self._store.records.get(job_id)
        if job is None:
            raise NotFoundError(f"There is no job {job_id}.")
        return job

    # ─── Dead letters ───

    def redrive(self, wanted: Filter, *, out_of_order: bool = False) -> Tally:
        """Put dead letters back where they came from; their jobs run again.

        ``out_of_order``: also those of ordered stages whose entity has run later tasks.
        """
        with self._letters.turn(), Listing(self._settings, wanted) as listing:
            redriver = Redriver(
                self._settings,
                self._registry,
                self._store,
                self._producer(),
                listing.scan,
                out_of_order=out_of_order,
            )
            return _tally(
                [(each.letter.id, each.outcome, each.why) for each in answers]
                for answers in redrive_all(listing, redriver, sort_seconds=TIME / 2)
            )

    def purge(self, wanted: Filter, queue: str) -> Tally:
        """Remove dead letters for good; refuse unless ``queue`` names their queue."""
        own = self._settings.sqs_dlq_url.rsplit("/", 1)[1]
        if queue != own:
            raise ActionRefusedError(f"The dead-letter queue is {own}, not {queue}.")
        if wanted.place == "errors" or any(place_of(each) == "errors" for each in wanted.ids):
            raise ActionRefusedError(
                "Records of the errors topic cannot be removed: Kafka deletes them after 30 days."
            )
        with self._letters.turn(), Listing(self._settings, wanted) as listing:
            return _tally(
                [(letter.id, "failed" if error else "purged", str(error or "")) for letter, error in answers]
                for answers in remove_all(listing, self._producer(), "purged")
            )

    def _producer(self) -> EventProducer:
        with self._lock:
            if self._started is None:
                self._started = EventProducer(self._settings, "web")
            return self._started


class _Timed(Iterator[T]):
    """An iterator that ends with the time of a request."""

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
    """Sum up id, outcome and reason of each letter. Those of one list are counted together or not at all."""
    timed = _Timed(answers)
    counts: Counter[str] = Counter()
    troubles: list[Trouble] = []
    for letter_id, outcome, why in chain.from_iterable(timed):
        counts[outcome] += 1
        if why and len(troubles) < LISTED:
            troubles.append(Trouble(id=letter_id, why=why))
    return Tally(counts=dict(counts), troubles=troubles, finished=timed.finished)


# ─── The table ───


@dataclass(frozen=True, kw_only=True)
class Action(Generic[RequestT, ResultT]):
    """One action: a POST of its request to its path, below the API's prefix and as a page's form."""

    #: As the log calls it.
    name: str
    path: str
    request: type[RequestT]
    result: type[ResultT]
    run: Callable[[Actions, RequestT], ResultT]
    notice: Callable[[RequestT, ResultT], Notice]
    #: The status of the API's answer.
    status: int = 200
    #: The page with its form.
    page: str
    #: The form's button, and the style of it.
    title: str
    style: Literal["primary", "danger"] = "primary"
    #: The description on the form and in the API.
    about: str
    #: The title of the notice when it is refused.
    refused: str

    @property
    def is_about_job(self) -> bool:
        """Whether its path names a job; then the API reads the rest from the query, else from a JSON body."""
        return issubclass(self.request, JobRequest)

    @property
    def fields(self) -> list[tuple[str, str, bool]]:
        """The fields of its form: name, title, and whether it is a yes or no."""
        return [
            (name, field.title, field.annotation is bool)
            for name, field in self.request.model_fields.items()
            if field.title
        ]


ACTIONS: Mapping[str, Action[Any, Any]] = {
    "submit": Action(
        name="submit",
        path="/jobs",
        request=SubmitRequest,
        result=SubmittedJob,
        run=lambda actions, request: actions.submit(
            request.start, request.event_data(), request.entity_id, request.key
        ),
        notice=notices.submit_notice,
        status=201,
        page="/submit",
        title="Submit",
        about="Start a job with an event for a stage or a topic. An event that could only fail is refused.",
        refused="Not submitted",
    ),
    "redrive_job": Action(
        name="redrive",
        path="/jobs/{job_id}/redrive",
        request=JobRedriveRequest,
        result=Tally,
        run=lambda actions, request: actions.redrive_job(request.job_id, out_of_order=request.out_of_order),
        notice=notices.job_redrive_notice,
        page="/jobs/{job_id}",
        title="Redrive failed tasks",
        about="Put the job's dead letters back where they came from. The job completes when they succeed.",
        refused="Not redriven",
    ),
    "replay": Action(
        name="replay",
        path="/jobs/{job_id}/replay",
        request=ReplayRequest,
        result=ReplayTally,
        run=lambda actions, request: actions.replay(request.job_id, request.stage, request.again),
        notice=notices.replay_notice,
        page="/jobs/{job_id}",
        title="Replay from a stage",
        about="Send the stage's task again, from the event in Kafka. Finished tasks stay finished.",
        refused="Not replayed",
    ),
    "cancel": Action(
        name="cancel",
        path="/jobs/{job_id}/cancel",
        request=JobRequest,
        result=Job,
        run=lambda actions, request: actions.cancel(request.job_id),
        notice=notices.cancel_notice,
        page="/jobs/{job_id}",
        title="Cancel the job for good",
        style="danger",
        about="Tasks of the job that have not started are skipped and counted as cancelled. This is final.",
        refused="Not cancelled",
    ),
    "redrive": Action(
        name="redrive",
        path="/dead-letters/redrive",
        request=RedriveRequest,
        result=Tally,
        run=lambda actions, request: actions.redrive(request.filter(), out_of_order=request.out_of_order),
        notice=notices.letters_notice,
        page="/dead-letters",
        title="Redrive",
        about="Put dead letters back where they came from; their jobs run again.",
        refused="Not redriven",
    ),
    "purge": Action(
        name="purge",
        path="/dead-letters/purge",
        request=PurgeRequest,
        result=Tally,
        run=lambda actions, request: actions.purge(request.filter(), request.queue),
        notice=notices.letters_notice,
        page="/dead-letters",
        title="Purge for good",
        style="danger",
        about="Remove dead letters for good; their jobs stay failed. The queue's name is the confirmation.",
        refused="Nothing was purged",
    ),
}
