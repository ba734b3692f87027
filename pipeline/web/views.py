"""Views of the pipeline and of jobs, as the page and the API show them. Reads may block: see ``Live``."""

import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

from pipeline.author.registry import Registry
from pipeline.errors import ServiceError
from pipeline.jobs import FailureRecord, Job, JobPage, JobState, JobStore, PartPage, StageProgress, moment
from pipeline.observe.reports import HealthReport, QueueReading, Report, SqsReport
from pipeline.observe.stagestats import StagesReading
from pipeline.schedules.status import ScheduleStatus, read_schedules
from pipeline.settings import Settings
from pipeline.web.causes import causes
from pipeline.web.model import (
    Away,
    FailureRow,
    JobDetail,
    JobFilter,
    JobList,
    JobRow,
    Links,
    PipelineView,
    Progress,
    Service,
    StageRow,
    StageView,
    TopicView,
)

#: Jobs read at once when no index has the filter, and the maximum number read for one page.
BATCH, LOOKED_AT = 100, 1_000

#: Days of submissions in one read, and the seconds after which a search for a page stops: a page should
#: load in 0.3 seconds.
DAYS, TIME = 2, 0.15

#: Characters of the longest job id.
LONGEST_ID = 128

#: Characters of the shortest beginning of an id that is searched for, and the seconds of the search.
SHORTEST_PREFIX, PREFIX_TIME = 4, 2.0

#: Failures of a job that a page shows.
FAILURES = 20


class Views:
    """Reads of one service's jobs. Threads may share it. Raises a ServiceError when DynamoDB is down."""

    def __init__(self, settings: Settings, store: JobStore) -> None:
        self._settings = settings
        self._store = store
        self._links = Links(settings)

    # ─── The list ───

    def jobs(self, wanted: JobFilter, before: str | None = None, limit: int = 50) -> JobList:
        """Return a page of jobs, newest first; ``before`` is the ``next`` of the previous page.

        The table's index has state and times, and the jobs of an entity, thousands a read. Stage and text are
        searched in the records of a bounded number of jobs. A page says how far it searched, and its ``next``
        continues from there.
        """
        if before is None and (named := self._by_id(wanted)) is not None:
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

    def _by_id(self, wanted: JobFilter) -> Job | None:
        """Return the job whose id is the search text, if the text can be an id."""
        text = wanted.text or ""
        job = self._store.records.get(text) if text.isascii() and 0 < len(text) <= LONGEST_ID else None
        return job if job is not None and _matches(job, wanted) else None

    def _read(self, wanted: JobFilter, before: str | None, limit: int) -> JobPage:
        until = None if wanted.until is None else moment(wanted.until)
        unindexed = wanted.stage is not None or wanted.text is not None
        return self._store.listing.jobs(
            wanted.state,
            limit=BATCH if unindexed else limit,
            before=min(filter(None, (before, until)), default=None),
            entity_id=wanted.entity_id,
            since=wanted.since,
            days=DAYS,
        )

    def _page(self, jobs: list[Job], following: str | None) -> JobList:
        # All tasks of a complete job are done: there is nothing to read.
        open_jobs = [job for job in jobs if job.state is not JobState.COMPLETE]
        progress = self._store.listing.progress_of(open_jobs)
        stages = dict(zip((job.job_id for job in open_jobs), progress, strict=True))
        return JobList(
            rows=[
                JobRow(job=job, progress=sum_of(stages[job.job_id]) if job.job_id in stages else None)
                for job in jobs
            ],
            next=following,
            looked_back_to=None if following is None else float(following.split("#", 1)[0]),
            taken_at=time.time(),
        )

    # ─── Schedules ───

    def schedules(self) -> list[ScheduleStatus]:
        """Return the schedules of the service, by name."""
        return read_schedules(self._store.schedules, time.time())

    # ─── One job ───

    def job(self, job_id: str) -> JobDetail | None:
        """Return a job with its stages and first failures; None for an unknown id."""
        found = self._store.listing.progress(job_id)
        if found is None:
            return None
        job, stages = found
        failures = list(islice(self._store.listing.failures(job_id), FAILURES + 1))
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

    def job_ids(self, prefix: str) -> list[str]:
        """Return the ids that start with a text, of the jobs that are read in a moment; newest first."""
        if not (SHORTEST_PREFIX <= len(prefix) < LONGEST_ID and prefix.isascii()):
            return []
        return self._store.listing.starting_with(prefix, PREFIX_TIME)

    def parts(self, job_id: str, stage: str, after: int | None = None, limit: int = 100) -> PartPage | None:
        """Return a page of a split's parts, by ordinal; None without such a job, or before its split."""
        return self._store.parts.page(job_id, stage, after=after, limit=limit)

    def _failures(self, job_id: str, failures: list[FailureRecord]) -> tuple[list[FailureRow], list[Away]]:
        """Return failures with their error events, or without them and why, when Kafka does not answer."""
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
    """Return the progress of all stages of a job together."""
    return Progress(
        done=sum(each.done for each in stages),
        failed=sum(each.failed for each in stages),
        cancelled=sum(each.cancelled for each in stages),
        total=sum(each.total for each in stages),
        exact=all(each.exact for each in stages),
    )


def _matches(job: Job, wanted: JobFilter) -> bool:
    """Whether a job matches every value of the filter: a job found by its id has not been filtered."""
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


# ─── The pipeline ───


def unreachable(service: Service, report: Report) -> list[Away]:
    """Return the problem that the report of a service names, with when it began; empty without one."""
    if report.error is None or report.since is None:
        return []
    return [Away(service=service, error=report.error, since=report.since)]


def pipeline_view(
    settings: Settings,
    registry: Registry,
    health: HealthReport,
    at_work: StagesReading,
    schedules: Sequence[ScheduleStatus],
) -> PipelineView:
    """Return the view of the pipeline as it is now."""
    lag = health.kafka.lag_by_topic or {}
    return PipelineView(
        stages=stage_views(settings, registry),
        topics=[
            TopicView(topic=topic, name=settings.topic(topic), lag=lag.get(settings.topic(topic)))
            for topic in registry.topics
        ],
        queues=_queues(health.sqs),
        at_work=at_work,
        schedules=schedules,
        away=[
            *unreachable("Kafka", health.kafka),
            *unreachable("SQS", health.sqs),
            *unreachable("DynamoDB", health.dynamodb),
        ],
        taken_at=time.time(),
    )


def stage_views(settings: Settings, registry: Registry) -> list[StageView]:
    """Return the stages in the order of their definition."""
    return [
        StageView(
            stage=stage.name,
            consumes=stage.consumes,
            emits=stage.emits,
            queue=stage.queue or settings.task_queue,
            ordered=stage.ordered,
            split=stage.is_split,
        )
        for stage in registry.by_name.values()
    ]


def _queues(report: SqsReport) -> list[QueueReading]:
    # A dead letter that a person reads is in flight for a minute only: all count as waiting.
    return [
        replace(queue, available=queue.depth, in_flight=0, delayed=0) if queue.role == "dlq" else queue
        for queue in report.queues
    ]
