"""The data of jobs: jobs, what is recorded of their tasks, what is to be closed, and views of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, NamedTuple

from pipeline.errors import ServiceError
from pipeline.jobs.refs import PartRef, Ref, SplitRef, StageRef
from pipeline.wire.plans import JobPlan
from pipeline.wire.references import Reference


class JobState(StrEnum):
    """The state of a job. ``complete`` and ``cancelled`` are final; a ``failed`` job runs after a redrive."""

    RUNNING = "running"
    COMPLETE = "complete"
    FAILED = "failed"
    CANCELLED = "cancelled"


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
    #: Source and id of that event: the ids of the job's tasks follow from them. None for no event.
    event: tuple[str, str] | None = None
    #: Of what was submitted under a key, so that the key cannot name something else. None without a key.
    digest: str | None = None


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
    #: By stage, the records of those that ended a path, where the job's record holds them (ADR 23).
    ends: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    #: As in ``NewJob``; None where an earlier version opened the job, too.
    event: tuple[str, str] | None = None
    #: As in ``NewJob``.
    digest: str | None = None
    #: Whether Kafka acknowledged the event of a job that was submitted under a key.
    is_sent: bool = False

    @property
    def closed_at(self) -> float | None:
        """When it ended (complete, cancelled or failed); None while it runs."""
        ends = (self.completed_at, self.cancelled_at, self.failed_at)
        return next((end for end in ends if end is not None), None)

    @property
    def is_final(self) -> bool:
        """Whether nothing can change how it ended."""
        return self.state in (JobState.COMPLETE, JobState.CANCELLED)


# ─── Outcomes: what a worker records ───


@dataclass(frozen=True, kw_only=True)
class StageDone:
    """An unsplit stage or a gather succeeded, and Kafka acknowledged its event (if it emits one)."""

    ref: StageRef
    task_id: str
    #: True when nothing follows: the stage is terminal, or returned None. The terminal stages at or below
    #: it count as done.
    ends_path: bool
    run_seconds: float
    finished_at: float
    worker: str
    #: JSON: what it returned, where that ends a path; a small one is kept in the job's record.
    result: str | None = None
    #: The entity of the event that it emitted, where the stage gave one; None for that of its own event.
    entity: str | None = None


@dataclass(frozen=True, kw_only=True)
class PartDone:
    """A part succeeded."""

    ref: PartRef
    #: A small result, to be stored with the record; None where it is stored already.
    result: "PartResult | None" = None


Done = StageDone | PartDone


@dataclass(frozen=True, kw_only=True)
class PartResult:
    """The result of a part that succeeded: stored before the part is recorded done, or with it."""

    ref: PartRef
    #: JSON.
    result: str
    run_seconds: float
    #: Runs that it took; 1 when the first succeeded.
    attempts: int


@dataclass(frozen=True, kw_only=True)
class FailedTask:
    """A task is a dead letter: its error event and its message on the DLQ are acknowledged."""

    ref: Ref
    task_id: str
    #: The class of the exception.
    error: str
    #: Its text; kept up to 500 characters.
    message: str
    attempts: int
    failed_at: float
    #: How often its message was redriven before it failed. The redriven message carries it.
    generation: int = 0
    #: Of its message, by ``pipeline.wire.failure.digest``: an error event counts only if it has the same
    #: (ADR 21). Empty for an event that became no task.
    digest: str = ""


@dataclass(frozen=True, kw_only=True)
class KeptResult:
    """The result of a stage that ended a path, as far as the record of its job keeps it."""

    #: JSON; None for one that is larger than a record keeps.
    result: str | None
    #: Bytes of the JSON.
    size: int
    #: The task that returned it.
    task_id: str


# ─── Closings: what is to be closed now ───


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
class Opened:
    """The answer to a batch of jobs to be opened."""

    #: One for each job given, in order: None when it has its record, else why not (try it again).
    errors: Sequence[ServiceError | None]
    #: The ids of jobs that were opened before, perhaps with another plan.
    existing: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """The answer to a batch of outcomes."""

    #: One for each outcome, in order: None when it is recorded, else the error (record it again).
    errors: Sequence[ServiceError | None]
    #: The splits and jobs that these outcomes ended. Recording again returns them until they are closed.
    closings: Sequence[Closing] = ()


@dataclass(frozen=True, kw_only=True)
class DoneTasks:
    """The answer to the check before running: the tasks that need no run, and what a crash left open."""

    refs: frozenset[Ref]
    #: To be closed like those of ``record``: a worker died between recording and closing.
    closings: Sequence[Closing] = ()
    #: When the stages among them were done, in seconds since 1970; nobody keeps it of parts and splits.
    finished_at: Mapping[Ref, float] = field(default_factory=dict)


# ─── Splits ───


class SealedPart(NamedTuple):
    """A part as it is sealed."""

    ordinal: int
    #: JSON, or the reference to it.
    data: str | Reference
    #: Its own entity; None for that of the split's event.
    entity: str | None = None


@dataclass(frozen=True, kw_only=True)
class SealedSplit:
    """A split whose parts are fixed for ever."""

    split: SplitRef
    #: How many parts it has.
    total: int
    #: JSON: the header for the gather's message, as given to ``seal``.
    header: str
    #: JSON: the data of the split's event, or the reference to it.
    data: str | Reference
    #: The run whose pages hold the parts; two runs of the split never mix.
    run: str
    #: How many pages hold the parts; 0 when ``inline`` does.
    pages: int
    #: The parts (JSON, or the reference to it) of a small split.
    inline: tuple[str | Reference, ...] = ()
    #: The entities of these parts, where they have their own.
    entities: tuple[str, ...] = ()
    #: Whether parts have entities of their own.
    keyed: bool = False
    #: The share of its parts that its gather goes on without when they fail; 0 for none.
    tolerate: float = 0
    #: Whether small results are kept in its counter (ADR 23).
    keeps: bool = False
    #: How many of its page tasks are open at a time (ADR 13).
    window: int = 2

    @property
    def inline_parts(self) -> list[SealedPart]:
        """The parts of a small split."""
        return sealed_parts(0, self.inline, self.entities)


def sealed_parts(first: int, parts: Sequence[str | Reference], entities: Sequence[str]) -> list[SealedPart]:
    """Return parts with their ordinals, and with their entities where there are any."""
    if not entities:
        return [SealedPart(first + at, part) for at, part in enumerate(parts)]
    return [SealedPart(first + at, *each) for at, each in enumerate(zip(parts, entities, strict=True))]


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
    #: "waiting" includes an unsplit stage that runs: only outcomes are recorded. "not reached": its job ended
    #: before. Else running, done, failed or cancelled.
    state: str
    #: Parts done, failed and in all; of an unsplit stage 0 or 1 of 1.
    done: int
    failed: int
    total: int
    #: Parts that will not run, or whose result is not used, because the job was cancelled. What ran at that
    #: moment counts here until it ends.
    cancelled: int = 0
    #: Whether all parts were counted. Of a very large split only some are: ``failed`` is too low then, and
    #: ``done`` about right.
    exact: bool = True
    #: Of the unsplit stage or the gather, once it is done.
    run_seconds: float | None = None
    finished_at: float | None = None
    worker: str | None = None
    task_id: str | None = None
    #: Of the event that it emitted, where the stage gave one.
    entity: str | None = None


@dataclass(frozen=True, kw_only=True)
class PartRow:
    """One part of a split."""

    ordinal: int
    #: "waiting" includes a running part: only outcomes are recorded. "cancelled": its job was, first.
    state: Literal["waiting", "done", "failed", "cancelled"]
    #: Runs, once it is done or failed; None before that, and where the record expired.
    attempts: int | None = None
    #: Of the run that succeeded.
    run_seconds: float | None = None
    #: Of a failed one: the class of the exception, its text, and when it failed for good.
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
    #: JSON, as in ``SealedSplit``; the ids of the parts' tasks follow from it.
    header: str


@dataclass(frozen=True, kw_only=True)
class JobPage:
    """A page of the list of jobs, newest submission first."""

    jobs: Sequence[Job] = field(default=())
    #: Give it as ``before`` for the next page; None when this is the last.
    next: str | None = None
