"""The data of the jobs page and its API: frozen, with the time of the read. Times are seconds since 1970."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import quote

from pipeline.deadletters import LetterRow
from pipeline.jobs import FailureRecord, Job, JobState, StageProgress
from pipeline.observe.reports import QueueReading
from pipeline.observe.stagestats import StagesReading
from pipeline.schedules.status import ScheduleStatus
from pipeline.settings import Settings
from pipeline.wire.failure import ErrorEvent

#: Levels of nested lists and objects that an answer keeps.
MAX_DEPTH = 50

Service = Literal["Kafka", "SQS", "DynamoDB"]


@dataclass(frozen=True, kw_only=True)
class Away:
    """A service that does not answer, or refuses."""

    service: Service
    #: What was being done, the error, and the fix.
    error: str
    since: float


# ─── The pipeline ───


@dataclass(frozen=True, kw_only=True)
class TopicView:
    """A topic that stages consume or emit to."""

    #: Its logical name in stages, and its name in Kafka.
    topic: str
    name: str
    #: Events that the bridges' group has not committed; None: no stage consumes it, or Kafka does not answer.
    lag: int | None


@dataclass(frozen=True, kw_only=True)
class StageView:
    """A stage."""

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
    """All stages with the topics and queues between them. The part of a service that is down is empty."""

    stages: Sequence[StageView]
    topics: Sequence[TopicView]
    queues: Sequence[QueueReading]
    #: Rates, run times and workers, from the workers' events.
    at_work: StagesReading
    #: Those of stages and of Celery's beat_schedule.
    schedules: Sequence[ScheduleStatus]
    away: Sequence[Away]
    taken_at: float


# ─── Jobs ───


@dataclass(frozen=True, kw_only=True)
class JobFilter:
    """A filter for jobs: all values that are set must match."""

    state: JobState | None = None
    entity_id: str | None = None
    #: Jobs that pass through this stage; failed jobs only if they failed in it.
    stage: str | None = None
    #: Text within the job's id, entity or topic, in upper or lower case.
    text: str | None = None
    #: Submitted at or after, and before.
    since: float | None = None
    until: float | None = None


@dataclass(frozen=True, kw_only=True)
class Progress:
    """The number of a job's tasks over all stages: one for a stage, or its parts if it is split."""

    done: int
    failed: int
    #: Tasks that will not run because the job was cancelled.
    cancelled: int
    #: May grow: the number of parts is known once the split has run.
    total: int
    #: Whether all parts were counted; of very large splits only some are.
    exact: bool = True


@dataclass(frozen=True, kw_only=True)
class JobRow:
    """A job in the list."""

    job: Job
    #: None for a complete job: all its tasks are done.
    progress: Progress | None


@dataclass(frozen=True, kw_only=True)
class JobList:
    """A page of jobs, newest submission first."""

    rows: Sequence[JobRow]
    #: Cursor of the next page; None for the last. A page with few rows may have more behind it.
    next: str | None
    #: How far back jobs were searched for this page; None: to the oldest.
    looked_back_to: float | None
    taken_at: float


@dataclass(frozen=True, kw_only=True)
class StageRow:
    """A stage of a job."""

    progress: StageProgress
    #: Flower's page of the finished task of a stage or gather; None without FLOWER_URL.
    flower_url: str | None


@dataclass(frozen=True, kw_only=True)
class FailureRow:
    """A task of a job that is a dead letter."""

    failure: FailureRecord
    #: Its event on the errors topic, with the traceback, and the task's input as ``data``. None: not found.
    event: ErrorEvent | None
    flower_url: str | None


@dataclass(frozen=True, kw_only=True)
class JobDetail:
    """A job with its stages and failures."""

    job: Job
    #: In the order of the plan.
    stages: Sequence[StageRow]
    #: The first failures that are not redriven; ``more_failures``: whether there are others.
    failures: Sequence[FailureRow]
    more_failures: bool
    progress: Progress
    #: The job's trace; None without TRACE_URL.
    trace_url: str | None
    #: Kafka, when the errors topic could not be read.
    away: Sequence[Away]
    taken_at: float


# ─── Dead letters ───


@dataclass(frozen=True, kw_only=True)
class LetterList:
    """The dead letters that a search found, newest first."""

    rows: Sequence[LetterRow]
    #: Whether the search reached the end of all places; else there are more.
    complete: bool
    #: About how many more on the queue are hidden now.
    unseen: int
    away: Sequence[Away]
    taken_at: float


@dataclass(frozen=True, kw_only=True)
class LetterDetail:
    """A dead letter with its data, headers and traceback."""

    row: LetterRow
    traceback: str
    headers: Mapping[str, Any]
    #: As text, often JSON.
    data: str | None
    flower_url: str | None

    def details(self) -> dict[str, Any]:
        """Return it as one JSON object, as ``DeadLetter.details`` does."""
        about = {"traceback": self.traceback, "headers": self.headers, "data": self.data}
        return {**self.row.fields(), **about}


# ─── Actions ───


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """A dead letter, or record, on which an action failed."""

    id: str
    why: str


@dataclass(frozen=True, kw_only=True)
class Tally:
    """The result of an action on dead letters."""

    #: By outcome: redriven, removed (the task is already done), purged, skipped, failed.
    counts: Mapping[str, int]
    #: The first that were skipped or failed.
    troubles: Sequence[Trouble] = field(default=())
    #: False: the time of a request ended before all were handled. Repeat it for the rest.
    finished: bool


@dataclass(frozen=True, kw_only=True)
class ReplayTally:
    """The result of a replay of a job's stage."""

    #: Tasks sent; 0 when Kafka no longer has the event.
    sent: int
    #: The new job of a replay with ``again``; else the job itself.
    job_id: str
    #: Events that made no task.
    troubles: Sequence[Trouble] = field(default=())
    #: False: the topic was not read to its end in the time of a request.
    finished: bool


# ─── Values and links ───


class Links:
    """Links to Flower (FLOWER_URL) and to traces (TRACE_URL); None where the setting is missing."""

    def __init__(self, settings: Settings) -> None:
        self._flower = settings.flower_url
        self._trace = settings.trace_url

    def flower(self, task_id: str | None) -> str | None:
        """Return the address of Flower's page of a task."""
        if self._flower is None or not task_id:
            return None
        return f"{self._flower.rstrip('/')}/task/{quote(task_id, safe='')}"

    def trace(self, job_id: str) -> str | None:
        """Return the address of a job's trace, or of a search for it."""
        return self._trace and self._trace.replace("{job_id}", quote(job_id, safe=""))


def json_safe(value: Any, depth: int = 0) -> Any:
    """Return a value that JSON in UTF-8 can hold: text without surrogates, finite numbers, bounded depth."""
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if not isinstance(value, Mapping | list):
        return value
    if depth == MAX_DEPTH:
        return "…"
    if isinstance(value, list):
        return [json_safe(each, depth + 1) for each in value]
    return {json_safe(str(name)): json_safe(each, depth + 1) for name, each in value.items()}
