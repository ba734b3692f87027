"""Jobs as the page and the API show them, read from the services. Each method may block: see ``Live``."""

import time
from itertools import islice

from config.settings import Settings
from pipeline.errors import ServiceError
from pipeline.jobs import FailureRecord, Job, JobPage, JobState, JobStore, PartPage, StageProgress, moment
from pipeline.web.causes import causes
from pipeline.web.links import Links
from pipeline.web.model import (
    Away,
    FailureRow,
    JobDetail,
    JobFilter,
    JobList,
    JobRow,
    Progress,
    StageRow,
)

#: Jobs read at once where no index knows what is asked for, and how many are looked at for one page.
BATCH, LOOKED_AT = 100, 1_000

#: Days of submissions looked through at once, and the seconds after which a look for a page goes no further:
#: a page is to be there in 0.3.
DAYS, TIME = 2, 0.15

#: Characters of the longest job id.
LONGEST_ID = 128

#: Failures of a job that are shown.
FAILURES = 20


class Views:
    """Reads of one service's jobs. Threads may share it. Raises a ServiceError when DynamoDB is away."""

    def __init__(self, settings: Settings, store: JobStore) -> None:
        self._settings = settings
        self._store = store
        self._links = Links(settings)

    # ─── The list ───

    def jobs(self, wanted: JobFilter, before: str | None = None, limit: int = 50) -> JobList:
        """A page of jobs, newest submission first; ``before`` is the ``next`` of the page before.

        State and times are what the table's index is about, and an entity's jobs are found in it, thousands
        at a time. Stage and text are looked for in the records of a bounded number of jobs. A page says how
        far it looked, and its ``next`` looks further.
        """
        if before is None and (named := self._named(wanted)) is not None:
            return self._page([named], None)
        found: list[Job] = []
        looked_at, cursor = 0, before
        deadline = time.monotonic() + TIME
        while True:
            page = self._read(wanted, cursor, limit)
            cursor = page.next
            for job in page.jobs:
                looked_at += 1
                if _matches(job, wanted):
                    found.append(job)
                if len(found) == limit:
                    last = job is page.jobs[-1]
                    return self._page(found, page.next if last else moment(job.submitted_at, job.job_id))
            if cursor is None or looked_at >= LOOKED_AT or time.monotonic() > deadline:
                return self._page(found, cursor)

    def _named(self, wanted: JobFilter) -> Job | None:
        """The job whose id is the text, where it can be one: a key may not be as long as any text."""
        text = wanted.text or ""
        job = self._store.job(text) if text.isascii() and 0 < len(text) <= LONGEST_ID else None
        return job if job is not None and _matches(job, wanted) else None

    def _read(self, wanted: JobFilter, before: str | None, limit: int) -> JobPage:
        until = None if wanted.until is None else moment(wanted.until)
        unindexed = wanted.stage is not None or wanted.text is not None
        return self._store.jobs(
            wanted.state,
            limit=BATCH if unindexed else limit,
            before=min(filter(None, (before, until)), default=None),
            entity_id=wanted.entity_id,
            since=wanted.since,
            days=DAYS,
        )

    def _page(self, jobs: list[Job], following: str | None) -> JobList:
        # All of a complete job is done: nothing has to be read.
        open_jobs = [job for job in jobs if job.state is not JobState.COMPLETE]
        stages = dict(zip((job.job_id for job in open_jobs), self._store.progress_of(open_jobs), strict=True))
        return JobList(
            rows=[
                JobRow(job=job, progress=sum_of(stages[job.job_id]) if job.job_id in stages else None)
                for job in jobs
            ],
            next=following,
            looked_back_to=None if following is None else float(following.split("#", 1)[0]),
            taken_at=time.time(),
        )

    # ─── One job ───

    def job(self, job_id: str) -> JobDetail | None:
        """A job with its stages and the first of its failures; None when there is no such job."""
        found = self._store.progress(job_id)
        if found is None:
            return None
        job, stages = found
        failures = list(islice(self._store.failures(job_id), FAILURES + 1))
        rows, away = self._failures(job_id, failures[:FAILURES])
        return JobDetail(
            job=job,
            stages=[StageRow(progress=each, flower_url=self._links.flower(each.task_id)) for each in stages],
            failures=rows,
            more_failures=len(failures) > FAILURES,
            progress=sum_of(stages),
            trace_url=self._links.trace(job_id),
            away=away,
            taken_at=time.time(),
        )

    def record(self, job_id: str) -> Job | None:
        """A job's own record; None when there is no such job."""
        return self._store.job(job_id)

    def parts(self, job_id: str, stage: str, after: int | None = None, limit: int = 100) -> PartPage | None:
        """A page of a split's parts, by ordinal; None when there is no such job, or no split of it yet."""
        return self._store.part_page(job_id, stage, after=after, limit=limit)

    def _failures(self, job_id: str, failures: list[FailureRecord]) -> tuple[list[FailureRow], list[Away]]:
        """Each with its error event; without, and why, when Kafka is away."""
        away = []
        try:
            events = causes(self._settings, job_id, failures)
        except ServiceError as error:
            events = {}
            away = [Away(service="Kafka", error=str(error), since=time.time())]
        rows = [
            FailureRow(
                failure=each, event=events.get(each.task_id), flower_url=self._links.flower(each.task_id)
            )
            for each in failures
        ]
        return rows, away


def sum_of(stages: list[StageProgress]) -> Progress:
    """All stages of a job taken together."""
    return Progress(
        done=sum(each.done for each in stages),
        failed=sum(each.failed for each in stages),
        cancelled=sum(each.cancelled for each in stages),
        total=sum(each.total for each in stages),
    )


def _matches(job: Job, wanted: JobFilter) -> bool:
    """Whether a job is meant, also in what the table has an index for: a job by its id comes without one."""
    stages = job.failed if job.state is JobState.FAILED else job.plan.stages
    text = (wanted.text or "").lower()
    return (
        wanted.state in (None, job.state)
        and wanted.entity_id in (None, job.entity_id)
        and (wanted.since is None or job.submitted_at >= wanted.since)
        and (wanted.until is None or job.submitted_at < wanted.until)
        and (wanted.stage is None or wanted.stage in stages)
        and any(text in part.lower() for part in (job.job_id, job.entity_id, job.topic))
    )
