"""What jobs are made of, as others see it: jobs, references to tasks, outcomes, and what is to be closed."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from pipeline.errors import ServiceError


class JobState(StrEnum):
    """Where a job stands. ``complete`` and ``cancelled`` are final; a ``failed`` job runs after a redrive."""

    RUNNING = "running"
    COMPLETE = "complete"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, kw_only=True)
class JobPlan:
    """The stages a job can reach from where it was submitted."""

    #: Each reachable stage, and the terminal stages at or below it; people are shown stages in this order.
    stages: Mapping[str, tuple[str, ...]]

    @property
    def terminals(self) -> frozenset[str]:
        """The stages whose end ends the job."""
        return self.below(self.stages)

    def below(self, stages: Iterable[str]) -> frozenset[str]:
        """The terminal stages at or below any of ``stages``."""
        return frozenset(terminal for stage in stages for terminal in self.stages.get(stage, ()))


@dataclass(frozen=True, kw_only=True)
class NewJob:
    """A job to be opened, before its first event is sent or committed."""

    job_id: str
    #: The entity of the job's first event.
    entity_id: str
    #: The logical topic the first event is on.
    topic: str
    plan: JobPlan
    #: Seconds since the epoch.
    submitted_at: float


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job as recorded."""

    job_id: str
    state: JobState
    entity_id: str
    topic: str
    plan: JobPlan
    #: Seconds since the epoch, as are the next four.
    submitted_at: float
    updated_at: float
    #: When it was closed as complete; None before that.
    completed_at: float | None = None
    #: When it last ended with failures; None while it runs, and once it is complete.
    failed_at: float | None = None
    #: When it was cancelled; None when it was not.
    cancelled_at: float | None = None
    #: The terminal stages that are done.
    done: frozenset[str] = frozenset()
    #: The stages that ended with a failure that is not redriven.
    failed: frozenset[str] = frozenset()
    #: How often it was redriven. Part of the id of its job-failed event.
    redrives: int = 0

    @property
    def closed_at(self) -> float | None:
        """When it ended, complete, cancelled or failed; None while it runs."""
        ends = (self.completed_at, self.cancelled_at, self.failed_at)
        return next((end for end in ends if end is not None), None)

    @property
    def is_final(self) -> bool:
        """Whether nothing can change how it ended."""
        return self.state in (JobState.COMPLETE, JobState.CANCELLED)


# ─── References: what a task is to its job ───


@dataclass(frozen=True, kw_only=True)
class StageRef:
    """The run of an unsplit stage, or the gather of a split one. Before it is a task: a stage's event."""

    job_id: str
    stage: str
    #: The gather of a split stage, and not its event: each of them fails, and is redriven, for itself.
    gather: bool = False


@dataclass(frozen=True, kw_only=True)
class SplitRef:
    """The split of a stage, or one of its page tasks."""

    job_id: str
    stage: str
    #: The task id of the split's task.
    split_id: str
    #: Of a page task, which sends the parts from this page on; None for the split itself.
    page: int | None = None


@dataclass(frozen=True, kw_only=True)
class PartRef:
    """One part of a split."""

    job_id: str
    stage: str
    split_id: str
    #: 0 … total - 1.
    ordinal: int
    #: Sealed: never changes once the first part is sent.
    total: int

    @property
    def split(self) -> SplitRef:
        """The split this is a part of."""
        return SplitRef(job_id=self.job_id, stage=self.stage, split_id=self.split_id)


Ref = StageRef | SplitRef | PartRef


# ─── Outcomes: what a worker records ───


@dataclass(frozen=True, kw_only=True)
class StageDone:
    """An unsplit stage or a gather ended well, and Kafka acknowledged its event (if it emits one)."""

    ref: StageRef
    task_id: str
    #: True when nothing follows: the stage is terminal, or returned None. The terminal stages at or below
    #: it count as done.
    ends_path: bool
    run_seconds: float
    finished_at: float
    worker: str


@dataclass(frozen=True, kw_only=True)
class PartDone:
    """A part ended well, and its result is stored."""

    ref: PartRef


Done = StageDone | PartDone


@dataclass(frozen=True, kw_only=True)
class PartResult:
    """What a part that ended well leaves, to be stored before it is recorded done."""

    ref: PartRef
    #: JSON.
    result: str
    run_seconds: float
    #: Runs that it took; 1 when the first went well.
    attempts: int


@dataclass(frozen=True, kw_only=True)
class Failed:
    """A task is a dead letter: its error event and its message on the DLQ are acknowledged."""

    ref: Ref
    task_id: str
    #: The class of the exception.
    error: str
    #: Its text; kept up to 500 characters.
    message: str
    attempts: int
    failed_at: float
    #: How often this very message was redriven before it failed. The redriven message carries it.
    generation: int = 0


# ─── What somebody must now close ───


@dataclass(frozen=True, kw_only=True)
class SplitFilled:
    """Every part of a split is done, or failed and tolerated: send its gather, then ``close``."""

    split: SplitRef
    total: int


@dataclass(frozen=True, kw_only=True)
class JobFilled:
    """Every terminal stage of a job is done: emit its job-complete event, then ``close``."""

    job: Job


@dataclass(frozen=True, kw_only=True)
class JobFailed:
    """A job ended with failures, and is recorded so: emit its job-failed event (its id has the redrives)."""

    job: Job


Filled = SplitFilled | JobFilled
Closing = SplitFilled | JobFilled | JobFailed


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """The answer to a batch of outcomes."""

    #: One for each outcome given, in order: None when it is recorded, else why not (try it again).
    errors: Sequence[ServiceError | None]
    #: What these outcomes ended. A replay gives it again until it is closed.
    closings: Sequence[Closing] = ()


@dataclass(frozen=True, kw_only=True)
class AlreadyDone:
    """The answer to the check before running: what needs no run, and what a crash left unclosed."""

    refs: frozenset[Ref]
    #: To be closed like those of ``record``: a worker died between recording and closing.
    closings: Sequence[Closing] = ()


# ─── Splits ───


@dataclass(frozen=True, kw_only=True)
class SealedSplit:
    """A split whose parts are fixed for ever."""

    split: SplitRef
    #: How many parts it has.
    total: int
    #: JSON: what was given to ``seal``, so that anybody can make the gather's message.
    header: str
    #: JSON: the data of the split's event.
    data: str
    #: The run whose pages hold the parts; two runs of the split never mix.
    run: str
    #: How many pages hold the parts; 0 when ``inline`` does.
    pages: int
    #: The parts (JSON) of a small split.
    inline: tuple[str, ...] = ()
    #: The share of its parts that its gather goes on without when they fail; 0 for none.
    tolerate: float = 0


# ─── For people ───


@dataclass(frozen=True, kw_only=True)
class FailureRecord:
    """Why a task of a job is a dead letter."""

    stage: str
    #: The ordinal of a part, "split", "page-3", "gather", or "run" (of an unsplit stage; any stage's event).
    part: int | str
    task_id: str
    error: str
    message: str
    attempts: int
    failed_at: float
    generation: int


@dataclass(frozen=True, kw_only=True)
class StageProgress:
    """How far one stage of a job is."""

    stage: str
    #: "waiting" also covers an unsplit stage that runs: only outcomes are recorded. "not reached": its job
    #: ended before. Else running, done, failed or cancelled.
    state: str
    #: Parts done, failed and in all; of an unsplit stage 0 or 1 of 1.
    done: int
    failed: int
    total: int
    #: Those that will not run, or whose result nobody waits for, because the job was cancelled. What ran at
    #: that moment counts here until it ends.
    cancelled: int = 0
    #: Of the unsplit stage or the gather, once it is done.
    run_seconds: float | None = None
    finished_at: float | None = None
    worker: str | None = None
    task_id: str | None = None


@dataclass(frozen=True, kw_only=True)
class PartRow:
    """One part of a split."""

    ordinal: int
    #: "waiting" also covers one that runs: only outcomes are recorded. "cancelled": its job was, first.
    state: Literal["waiting", "done", "failed", "cancelled"]
    #: Runs, once it is done or failed; None before that, and where the record expired.
    attempts: int | None = None
    #: Of the run that went well.
    run_seconds: float | None = None
    #: Of one that failed: the class of the exception and its text, and when it was given up on.
    error: str | None = None
    message: str | None = None
    failed_at: float | None = None


@dataclass(frozen=True, kw_only=True)
class PartPage:
    """A page of the parts of a split, by ordinal."""

    split: SplitRef
    #: How many parts there are in all.
    total: int
    parts: Sequence[PartRow]
    #: Give it as ``after`` for the next page; None when this is the last.
    next: int | None
    #: JSON, as in ``SealedSplit``: it tells the ids of the parts' tasks.
    header: str


@dataclass(frozen=True, kw_only=True)
class JobPage:
    """A page of the list of jobs, newest submission first."""

    jobs: Sequence[Job] = field(default=())
    #: Give it as ``before`` for the next page; None when this is the last.
    next: str | None = None
