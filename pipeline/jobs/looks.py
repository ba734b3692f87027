"""Looks: open jobs as the sweep sees them, each with one read of its small items."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter

from pipeline.errors import ServiceError
from pipeline.jobs.dynamodb import REQUESTS_AT_ONCE
from pipeline.jobs.expressions import Item
from pipeline.jobs.keys import Keys
from pipeline.jobs.listing import PROGRESS, JobListing
from pipeline.jobs.model import Job, StageProgress
from pipeline.jobs.table import Table

#: Jobs that are looked at together. The threads that ask for them are those of the whole process: with no
#: more jobs than threads, a bridge that opens jobs waits for one read at most.
TOGETHER = REQUESTS_AT_ONCE

#: The attributes that are read: those that tell the progress, and whether a stage's end is to be recorded.
_ATTRIBUTES = (*PROGRESS, "ends_path")

#: What changes of a stage whenever something is recorded of it.
_recorded = attrgetter("stage", "state", "done", "failed", "total", "task_id")


@dataclass(frozen=True, kw_only=True)
class Look:
    """A job and what was recorded of it when it was looked at."""

    job: Job
    #: One for each stage of its plan; parts are counted exactly.
    progress: Sequence[StageProgress]
    #: The ids of its markers that workers received (ADR 26).
    markers: frozenset[str]
    #: Whether something that ended may not be closed yet: ``Resumption.resume`` tells. Never False if it is.
    may_owe: bool

    @property
    def unfinished(self) -> Sequence[StageProgress]:
        """The stages that are not done."""
        return [stage for stage in self.progress if stage.state != "done"]

    @property
    def state(self) -> Hashable:
        """A value that changes whenever something is recorded of the job, but not with its markers."""
        return self.job.updated_at, self.job.redrives, tuple(map(_recorded, self.progress))


class Looks:
    """Looks at jobs of one service."""

    def __init__(self, table: Table, keys: Keys, listing: JobListing) -> None:
        self._table = table
        self._keys = keys
        self._listing = listing

    def at(self, jobs: Sequence[Job]) -> list[Look | ServiceError]:
        """Return how each job is now, or the error, in order. Give it ``TOGETHER`` jobs at most.

        One query a job, which is one read unit if its items are 4 KB at most; one more read for each 25,600
        parts of its splits that are not gathered.
        """
        answers = self._table.each(self._items, jobs)
        found = [
            (job, answer)
            for job, answer in zip(jobs, answers, strict=True)
            if not isinstance(answer, ServiceError)
        ]
        try:
            progress = iter(self._listing.progress_from(found, exact=True))
        except ServiceError as error:
            return [error for _ in jobs]
        return [
            answer if isinstance(answer, ServiceError) else _look(job, answer, next(progress))
            for job, answer in zip(jobs, answers, strict=True)
        ]

    def _items(self, job: Job) -> Mapping[str, Item]:
        # In this order of sk: M#marker, META, P#stage (seals), S#stage (done).
        items = self._table.query(self._keys.job(job.job_id), since="M#", until="S$", attributes=_ATTRIBUTES)
        return {item["sk"]: item for item in items}


def _look(job: Job, items: Mapping[str, Item], progress: Sequence[StageProgress]) -> Look:
    return Look(
        job=job,
        progress=progress,
        markers=frozenset(sk.removeprefix("M#") for sk in items if sk.startswith("M#")),
        may_owe=_may_owe(job, items, progress),
    )


def _may_owe(job: Job, items: Mapping[str, Item], progress: Sequence[StageProgress]) -> bool:
    """Whether a gather may not be sent, a path's end not recorded, or the job's own end not announced."""
    return (
        job.plan.terminals <= job.done
        or bool(job.failed)
        or any(stage.state == "running" and stage.done + stage.failed >= stage.total for stage in progress)
        # The seal of a further split of a stage: its parts are not in the progress.
        or any(sk.startswith("P#") and "#" in sk.removeprefix("P#") for sk in items)
        or any(_is_unrecorded_end(job, sk, item) for sk, item in items.items())
    )


def _is_unrecorded_end(job: Job, sk: str, item: Item) -> bool:
    return bool(item.get("ends_path")) and not job.plan.below([sk.removeprefix("S#")]) <= job.done
