"""What the jobs page and its API show: frozen, with the moment it was read. Times are seconds since 1970."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from pipeline.deadletters import Place
from pipeline.errorevents import ErrorEvent
from pipeline.jobs import FailureRecord, Job, JobState, StageProgress
from pipeline.monitoring.sqs import QueueReading
from pipeline.monitoring.stages import StagesReading

Service = Literal["Kafka", "SQS", "DynamoDB"]


@dataclass(frozen=True, kw_only=True)
class Away:
    """A service that does not answer, or refuses."""

    service: Service
    #: What was being done, what was said, and the mend.
    error: str
    since: float


# ─── The pipeline ───


@dataclass(frozen=True, kw_only=True)
class TopicView:
    """One topic that stages consume or emit to."""

    #: Its logical name, as stages have it, and Kafka's.
    topic: str
    name: str
    #: Events that the bridges' group has not committed; None: nobody here consumes it, or Kafka is away.
    lag: int | None


@dataclass(frozen=True, kw_only=True)
class StageView:
    """One stage, and how it does."""

    stage: str
    consumes: str
    emits: str | None
    #: The name of its queue.
    queue: str
    ordered: bool
    #: Whether one event becomes many parts.
    split: bool


@dataclass(frozen=True, kw_only=True)
class PipelineView:
    """All stages with what is between them. What is of a service that is away is empty."""

    stages: Sequence[StageView]
    topics: Sequence[TopicView]
    queues: Sequence[QueueReading]
    #: Rates, run times and workers, from what workers say.
    at_work: StagesReading
    away: Sequence[Away]
    taken_at: float


# ─── Jobs ───


@dataclass(frozen=True, kw_only=True)
class JobFilter:
    """Which jobs are meant: all that is given must hold."""

    state: JobState | None = None
    entity_id: str | None = None
    #: Jobs that pass through it; of failed jobs those that failed in it.
    stage: str | None = None
    #: What stands in the job's id, entity or topic, in any case of letters.
    text: str | None = None
    #: Submitted at or after, and before.
    since: float | None = None
    until: float | None = None


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Tasks of a job over all its stages: of an unsplit stage one, of a split its parts."""

    done: int
    failed: int
    #: Those that will not run, because the job was cancelled.
    cancelled: int
    #: May grow: how many parts there are is known once the split has run.
    total: int


@dataclass(frozen=True, kw_only=True)
class JobRow:
    """One job in the list."""

    job: Job
    #: None of a complete job: all of it is done.
    progress: Progress | None


@dataclass(frozen=True, kw_only=True)
class JobList:
    """A page of jobs, newest submission first."""

    rows: Sequence[JobRow]
    #: Cursor of what follows; None: there is nothing more. With few rows or none: look further from there.
    next: str | None
    #: Back to which submission jobs were looked at for this page; None: to the oldest there is.
    looked_back_to: float | None
    taken_at: float


@dataclass(frozen=True, kw_only=True)
class StageRow:
    """One stage of a job."""

    progress: StageProgress
    #: Flower's page about the task of an unsplit stage or gather that is done; None without FLOWER_URL.
    flower_url: str | None


@dataclass(frozen=True, kw_only=True)
class FailureRow:
    """Why one task of a job is a dead letter."""

    failure: FailureRecord
    #: Its event on the errors topic: the traceback, and as ``data`` what the task was given. None: not found.
    event: ErrorEvent | None
    flower_url: str | None


@dataclass(frozen=True, kw_only=True)
class JobDetail:
    """One job with all that is known of it."""

    job: Job
    #: In the order of their work.
    stages: Sequence[StageRow]
    #: The first failures that are not redriven; ``more_failures`` says whether there are others.
    failures: Sequence[FailureRow]
    more_failures: bool
    progress: Progress
    #: The job's trace; None without TRACE_URL.
    trace_url: str | None
    #: Kafka, when it kept the errors topic from being read.
    away: Sequence[Away]
    taken_at: float


# ─── Dead letters ───


@dataclass(frozen=True, kw_only=True)
class LetterRow:
    """One dead letter in the list; fields as in ``DeadLetter``."""

    id: str
    place: Place
    error: str
    reason: str
    source: str | None
    job_id: str | None
    stage: str | None
    part: str | None
    entity_id: str | None
    task: str | None
    task_id: str | None
    attempts: int
    worker: str | None
    generation: int
    first_at: float | None
    failed_at: float
    topic: str | None
    partition: int | None
    offset: int | None
    group_id: str | None
    ordered: bool


@dataclass(frozen=True, kw_only=True)
class LetterList:
    """The dead letters that a look found, newest first."""

    rows: Sequence[LetterRow]
    #: Whether the look came to an end of both places; else there are more.
    complete: bool
    #: About how many more wait on the queue where nobody can see them now.
    unseen: int
    away: Sequence[Away]
    taken_at: float


@dataclass(frozen=True, kw_only=True)
class LetterDetail:
    """One dead letter with all there is to it."""

    row: LetterRow
    traceback: str
    headers: Mapping[str, Any]
    #: As text; JSON where it was JSON.
    data: str | None
    flower_url: str | None

    def fields(self) -> dict[str, Any]:
        """It as one JSON object, as ``DeadLetter.fields`` has it."""
        about = {"traceback": self.traceback, "headers": self.headers, "data": self.data}
        return {**asdict(self.row), **about}


# ─── Actions ───


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """One dead letter that an action left where it was."""

    id: str
    why: str


@dataclass(frozen=True, kw_only=True)
class Tally:
    """What became of the dead letters that an action was about."""

    #: By outcome: redriven, removed (its task is done after all), purged, skipped, failed.
    counts: Mapping[str, int]
    #: The first that were skipped or failed.
    troubles: Sequence[Trouble] = field(default=())
    #: False: the time of a request was over before all were seen to. Ask again: it goes on.
    finished: bool


@dataclass(frozen=True, kw_only=True)
class ReplayTally:
    """What a replay of a job's stage did."""

    #: Tasks sent; 0 when Kafka has the event no longer.
    sent: int
    #: The new job, where it was run again; else the job itself.
    job_id: str
    #: Why an event made no task.
    troubles: Sequence[Trouble] = field(default=())
    #: False: the topic was not read to its end within the time of a request.
    finished: bool
