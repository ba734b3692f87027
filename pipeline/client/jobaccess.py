"""The access to one job: what a handle reads of it, and its cancellation."""

from collections.abc import Mapping
from typing import Any

from pydantic_core import from_json

from pipeline.author.stages import Stage
from pipeline.errors import JobCancelledError, JobFailedError, ResultNotKeptError, UnknownJobError
from pipeline.jobs import Job, JobState, JobStore, KeptResult
from pipeline.kafka import EventProducer
from pipeline.ledger import Ledger
from pipeline.patience import Patience
from pipeline.settings import Settings


class JobAccess:
    """Reads and cancels one job. Threads may share it."""

    def __init__(self, settings: Settings, store: JobStore, producer: EventProducer, job_id: str) -> None:
        self._settings = settings
        self._store = store
        self._producer = producer
        self.job_id = job_id

    def read(self) -> Job:
        """Return the job as it is now; raise ``UnknownJobError`` for one without a record."""
        job = self._store.records.get(self.job_id)
        if job is None:
            raise UnknownJobError(
                self.job_id,
                f"Service {self._settings.service_name} has no job {self.job_id}, or its record expired.",
            )
        return job

    def result(self, job: Job, stage: str | Stage[Any, Any] | None) -> Any:
        """Return the result of the job, which has ended as ``job``; raise a ``JobError`` where it has none.

        ``stage``: whose result it is, where several stages ended paths.
        """
        if job.state is JobState.CANCELLED:
            raise JobCancelledError(job.job_id, f"Job {job.job_id} was cancelled.")
        if job.state is JobState.FAILED:
            raise self._failure(job)
        name = stage.name if isinstance(stage, Stage) else stage
        chosen = _chosen(job, self._store.records.results(job.job_id), name)
        return None if chosen is None else _value(job, *chosen, stage)

    def cancel(self) -> bool:
        """Cancel the job if it runs; return whether it is cancelled."""
        ledger = Ledger(self._settings, self._store, self._producer, Patience(waits=False))
        job = ledger.cancel(self.job_id) or self.read()
        return job.state is JobState.CANCELLED

    def _failure(self, job: Job) -> JobFailedError:
        failure = next(self._store.listing.failures(job.job_id), None)
        if failure is None:
            # A redrive has just begun, or the record of the reason expired.
            stages = ", ".join(sorted(job.failed))
            return JobFailedError(job.job_id, stages, "unknown", "the errors topic has the reason")
        return JobFailedError(job.job_id, failure.stage, failure.error, failure.message)


def _chosen(job: Job, kept: Mapping[str, KeptResult], stage: str | None) -> tuple[str, KeptResult] | None:
    """Return the result that is asked for, with its stage; None where nothing was returned."""
    if stage is not None and stage not in job.plan.stages:
        raise ResultNotKeptError(
            job.job_id, f"Job {job.job_id} has no stage {stage!r}. It has: {', '.join(job.plan.stages)}."
        )
    found = {name: result for name, result in kept.items() if stage in (None, name)}
    if len(found) > 1:
        raise ResultNotKeptError(
            job.job_id,
            f"Job {job.job_id} has results of {', '.join(sorted(found))}: name one of these as stage=.",
        )
    return next(iter(found.items()), None)


def _value(job: Job, name: str, kept: KeptResult, stage: str | Stage[Any, Any] | None) -> Any:
    if kept.result is None:
        route = job.plan.routes.get(name)
        where = (
            f"it is on topic {route.emits!r}, in the event of task {kept.task_id}"
            if route and route.emits
            else "return where it is, or emit it to a topic"
        )
        raise ResultNotKeptError(
            job.job_id,
            f"The result of stage {name} has {kept.size:,} bytes of JSON, more than the record of job "
            f"{job.job_id} keeps: {where}.",
        )
    return stage.load_output(kept.result) if isinstance(stage, Stage) else from_json(kept.result)
