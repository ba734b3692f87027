"""Submission of jobs: the job's record first, then the event that starts it."""

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from pipeline.author.registry import Registry
from pipeline.errors import InvalidEventError, PipelineError, ServiceError
from pipeline.infra.needs import check_topics
from pipeline.jobs import FailedTask, JobStore, NewJob, StageRef
from pipeline.jobs.deployments import current
from pipeline.kafka import EventProducer, OutgoingRecord
from pipeline.ledger import Ledger
from pipeline.patience import Patience
from pipeline.settings import Settings
from pipeline.sqs import MAX_MESSAGE_BYTES, OutgoingMessage
from pipeline.telemetry import tracing
from pipeline.wire import events, identity, taskmessage
from pipeline.wire.events import Event
from pipeline.wire.plans import JobPlan, plan_from
from pipeline.wire.taskmessage import TaskMessage

#: Seconds for Kafka to answer before anything is written: a person waits.
ANSWER_TIMEOUT = 5.0

#: Bytes that a trace may add to a task's message.
TRACE_BYTES = 200


@dataclass(frozen=True, kw_only=True)
class Submission:
    """A job to be submitted."""

    #: The data of its first event, as JSON in UTF-8.
    data: bytes
    #: The key of its events. None: each job is its own entity.
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
        """``start`` names a stage or a topic; raise ``InvalidEventError`` for an unknown one.

        Raise ``ConfigurationError`` where topics are shared (``check_topics``).
        """
        check_topics(settings, registry)
        self._settings = settings
        self._registry = registry
        self._producer = producer
        self._ledger = Ledger(settings, store, producer, Patience(waits=False))
        self.topic = start_topic(registry, start)
        self._deployments = store.deployments

    def check(self, submission: Submission) -> None:
        """Raise ``InvalidEventError`` or ``InvalidInputError`` if the job could only fail.

        Checks the entity, the data, and the size of the messages that they make.
        """
        check_entity(submission.entity_id)
        events.checked_json(submission.data)
        job = self._named(submission)
        event = self._event(job, self._registry.plan(self.topic), submission.data)
        for stage in self._registry.stages_on(self.topic):
            stage.load_input(submission.data)
            self._check_size(taskmessage.for_event(stage, event, job.job_id, job.submitted_at, event.plan_id))

    def submit(self, submissions: Sequence[Submission]) -> list[SubmittedJob | PipelineError]:
        """Open a job for each and emit its event; return the job, or the error, of each.

        Raise a ServiceError, with nothing written, when Kafka or DynamoDB does not answer, or Kafka lacks the
        topic. A job whose event is not acknowledged later is recorded as failed, and its error names it;
        should the event have arrived after all, the job runs and completes.
        """
        self._producer.check_topic(self._settings.topic(self.topic), ANSWER_TIMEOUT)
        plan = self._plan()
        jobs = [self._named(submission) for submission in submissions]
        opened = self._ledger.open([self._new_job(job, plan) for job in jobs])
        answers: list[SubmittedJob | PipelineError] = [
            error or job for job, error in zip(jobs, opened.errors, strict=True)
        ]
        ready = [at for at, answer in enumerate(answers) if isinstance(answer, SubmittedJob)]
        made = [self._event(jobs[at], plan, submissions[at].data) for at in ready]
        spans = [tracing.send_span(self._settings.topic(self.topic), event) for event in made]
        records = [self._record(event, span.traceparent) for event, span in zip(made, spans, strict=True)]
        emitted = self._ledger.emit("submit", records)
        for at, span, error in zip(ready, spans, emitted, strict=True):
            if error is not None:
                span.fail(type(error).__qualname__, str(error))
                self._give_up(jobs[at], error)
                answers[at] = _naming(jobs[at], error)
            span.end()
        return answers

    def _plan(self) -> JobPlan:
        """Return the plan that the bridges follow: another version may be deployed than this process has."""
        live = current(self._deployments.all(), time.time())
        followed = plan_from(live.routes, self.topic) if live else None
        return followed if followed and followed.stages else self._registry.plan(self.topic)

    @property
    def _source(self) -> str:
        return f"/{self._settings.service_name}/submit"

    def _named(self, submission: Submission) -> SubmittedJob:
        event_id = str(uuid.uuid4())
        return SubmittedJob(
            job_id=identity.job_id(self._source, event_id),
            entity_id=event_id if submission.entity_id is None else submission.entity_id,
            topic=self.topic,
            event_id=event_id,
            submitted_at=time.time(),
        )

    def _new_job(self, job: SubmittedJob, plan: JobPlan) -> NewJob:
        return NewJob(
            job_id=job.job_id,
            entity_id=job.entity_id,
            topic=self.topic,
            plan=plan,
            submitted_at=job.submitted_at,
            event=(self._source, job.event_id),
        )

    def _event(self, job: SubmittedJob, plan: JobPlan, data: bytes) -> Event:
        return Event(
            id=job.event_id,
            source=self._source,
            type=self.topic,
            time=datetime.fromtimestamp(job.submitted_at, UTC),
            entity_id=job.entity_id,
            data=data,
            job_id=job.job_id,
            submitted_at=job.submitted_at,
            plan_id=plan.id,
        )

    def _record(self, event: Event, traceparent: str | None) -> OutgoingRecord:
        key, value, headers = events.encode(event.continuing(traceparent))
        return OutgoingRecord(topic=self._settings.topic(self.topic), key=key, value=value, headers=headers)

    def _check_size(self, task: TaskMessage) -> None:
        """Refuse data that SQS has no room for; without SQS a task has no message."""
        message = OutgoingMessage(**task.to_sqs())
        room = MAX_MESSAGE_BYTES - message.room - TRACE_BYTES
        if self._settings.use_sqs_task_processing and message.size > room:
            raise InvalidEventError(
                f"the message of its task would have {message.size:,} bytes, and SQS takes {room:,}: store "
                "the data elsewhere and submit where it is"
            )

    def _give_up(self, job: SubmittedJob, error: ServiceError) -> None:
        """Record the job as failed, so that it is not listed as running for ever."""
        self._ledger.fail(
            [
                FailedTask(
                    ref=StageRef(job_id=job.job_id, stage=stage.name),
                    task_id=identity.task_id(self._source, job.event_id, stage.name, None),
                    error=type(error).__name__,
                    message=f"the job's first event was not acknowledged: {error}",
                    attempts=0,
                    failed_at=time.time(),
                )
                for stage in self._registry.stages_on(self.topic)
            ]
        )


def check_entity(entity_id: str | None) -> None:
    """Raise ``InvalidEventError`` for an entity that cannot be the key of an event."""
    if entity_id is None:
        return
    if not entity_id:
        raise InvalidEventError("the entity is empty: give a text, or none for an entity of the job's own")
    if len(entity_id) > events.ENTITY_LIMIT:
        raise InvalidEventError(
            f"the entity has {len(entity_id):,} characters and may have {events.ENTITY_LIMIT:,}"
        )
    if not entity_id.isprintable():
        raise InvalidEventError(f"the entity {entity_id!r} cannot be a key: use printable text in UTF-8")


def _naming(job: SubmittedJob, error: ServiceError) -> ServiceError:
    """Return the error with the id of the job, which is recorded by now."""
    named = type(error)(f"Job {job.job_id} is recorded as failed, its event was not acknowledged: {error}")
    named.__cause__ = error
    return named


def start_topic(registry: Registry, name: str) -> str:
    """Return the topic of a start (a stage or a topic); raise an error that lists the known ones."""
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
