"""Submitting jobs: a job's record first, then the event that starts it."""

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from config.settings import Settings
from pipeline import events, identity
from pipeline.errors import InvalidEventError, PipelineError, ServiceError
from pipeline.events import Event
from pipeline.jobs import Failed, JobPlan, JobStore, NewJob, StageRef
from pipeline.kafka import EventProducer, Record
from pipeline.registry import Registry
from pipeline.telemetry import tracing
from pipeline.topology import check_topics

#: Seconds for Kafka to acknowledge: what the producer itself tries for, and a little.
EMIT_TIMEOUT = 65.0


@dataclass(frozen=True, kw_only=True)
class Submission:
    """A job to be submitted."""

    #: The data of its first event, as JSON in UTF-8.
    data: bytes
    #: What it is about: the key of its events. None: each job is its own entity.
    entity_id: str | None = None


@dataclass(frozen=True, kw_only=True)
class SubmittedJob:
    """A job whose first event is acknowledged."""

    job_id: str
    entity_id: str
    #: Logical name of the topic.
    topic: str
    event_id: str
    #: Seconds since 1970.
    submitted_at: float


class Submitter:
    """Submits jobs to one start: a stage, or a topic."""

    def __init__(
        self, settings: Settings, registry: Registry, store: JobStore, producer: EventProducer, start: str
    ) -> None:
        """``start`` names a stage or a topic; ``InvalidEventError`` for one that nobody knows.

        ``ConfigurationError`` where events would be taken for something else (``check_topics``).
        """
        check_topics(settings, registry)
        self._settings = settings
        self._registry = registry
        self._store = store
        self._producer = producer
        self.topic = start_topic(registry, start)
        self._plan = JobPlan(stages=registry.plan(self.topic))

    def check(self, submission: Submission) -> None:
        """Raise ``InvalidEventError`` or ``InvalidInputError`` where its tasks could only fail."""
        events.checked_json(submission.data)
        for stage in self._registry.consumers(self.topic):
            stage.load_input(submission.data)

    def submit(self, submissions: Sequence[Submission]) -> list[SubmittedJob | PipelineError]:
        """Open a job for each and emit its event; in the place of one that failed stands why.

        A job whose record was written and whose event was not acknowledged is recorded as failed; should
        the event have arrived after all, the job runs and completes.
        """
        jobs = [self._named(submission) for submission in submissions]
        opened = self._store.open_jobs([self._new_job(job) for job in jobs])
        answers: list[SubmittedJob | PipelineError] = [
            answer if isinstance(answer, ServiceError) else job
            for job, answer in zip(jobs, opened, strict=True)
        ]
        ready = [at for at, answer in enumerate(answers) if isinstance(answer, SubmittedJob)]
        made = [self._event(jobs[at], submissions[at].data) for at in ready]
        spans = [tracing.sending(self._settings.topic(self.topic), event) for event in made]
        records = [self._record(event, span.traceparent) for event, span in zip(made, spans, strict=True)]
        emitted = self._producer.emit(records, EMIT_TIMEOUT)
        for at, span, error in zip(ready, spans, emitted, strict=True):
            if error is not None:
                span.fail(type(error).__qualname__, str(error))
                self._give_up(jobs[at], error)
                answers[at] = error
            span.end()
        return answers

    @property
    def _source(self) -> str:
        return f"/{self._settings.service_name}/submit"

    def _named(self, submission: Submission) -> SubmittedJob:
        event_id = str(uuid.uuid4())
        return SubmittedJob(
            job_id=identity.job_id(self._source, event_id),
            entity_id=submission.entity_id or event_id,
            topic=self.topic,
            event_id=event_id,
            submitted_at=time.time(),
        )

    def _new_job(self, job: SubmittedJob) -> NewJob:
        return NewJob(
            job_id=job.job_id,
            entity_id=job.entity_id,
            topic=self.topic,
            plan=self._plan,
            submitted_at=job.submitted_at,
        )

    def _event(self, job: SubmittedJob, data: bytes) -> Event:
        return Event(
            id=job.event_id,
            source=self._source,
            type=self.topic,
            time=datetime.fromtimestamp(job.submitted_at, UTC),
            entity_id=job.entity_id,
            data=data,
            job_id=job.job_id,
            submitted_at=job.submitted_at,
        )

    def _record(self, event: Event, traceparent: str | None) -> Record:
        key, value, headers = events.encode(event.continuing(traceparent))
        return Record(topic=self._settings.topic(self.topic), key=key, value=value, headers=headers)

    def _give_up(self, job: SubmittedJob, error: ServiceError) -> None:
        """Let the job end as failed: it must not be shown as running for ever."""
        self._store.record_failed(
            [
                Failed(
                    ref=StageRef(job_id=job.job_id, stage=stage.name),
                    task_id=identity.task_id(self._source, job.event_id, stage.name, None),
                    error=type(error).__name__,
                    message=f"the job's first event was not acknowledged: {error}",
                    attempts=0,
                    failed_at=time.time(),
                )
                for stage in self._registry.consumers(self.topic)
            ]
        )


def start_topic(registry: Registry, name: str) -> str:
    """The topic whose events start what ``name`` (a stage, or a topic) names; lists the known ones else."""
    if name in registry.by_name:
        return registry.by_name[name].consumes
    if name in registry.consumed_topics:
        return name
    stages = ", ".join(sorted(registry.by_name)) or "none"
    topics = ", ".join(sorted(registry.consumed_topics)) or "none"
    raise InvalidEventError(
        f"No stage is called {name!r}, and none consumes a topic of that name. "
        f"Stages: {stages}. Topics: {topics}. TASK_MODULES says where stages are looked for."
    )
