"""Submission of jobs: the job's record first, then the event that starts it.

A submission may have a key of the submitter's own. The ids of its event and job follow from it, so what is
submitted again under the key is the same job. Its record is marked when Kafka acknowledged the event; without
the mark (the submitter died in between, say) the next submission sends the same event again.
"""

import hashlib
import json
import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Self

import structlog

from pipeline.author.registry import Registry
from pipeline.author.stages import Stage
from pipeline.client.start import find_start
from pipeline.errors import InvalidEventError, KeyConflictError, PermanentError, PipelineError, ServiceError
from pipeline.infra.needs import check_topics
from pipeline.jobs import FailedTask, Job, JobState, JobStore, NewJob, StageRef
from pipeline.jobs.deployments import current
from pipeline.kafka import EventProducer, OutgoingRecord
from pipeline.ledger import Ledger
from pipeline.patience import Patience
from pipeline.payloads import SET_BUCKET, Payloads, referenced
from pipeline.registry import Encoder
from pipeline.settings import Settings
from pipeline.sqs import MAX_MESSAGE_BYTES, OutgoingMessage
from pipeline.telemetry import tracing
from pipeline.wire import events, identity, taskmessage
from pipeline.wire.events import Event
from pipeline.wire.plans import JobPlan, plan_from
from pipeline.wire.taskmessage import TaskMessage

log = structlog.get_logger(__name__)

#: Characters of a key: it names one job, and is hashed.
KEY_LIMIT = 1_024

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
    #: A name of the submitter's own for this job: under one key a topic gets one job. None: a new job.
    key: str | None = None

    @property
    def digest(self) -> str:
        """The digest of entity and data, whatever the spaces and the order of keys in the JSON."""
        content = [self.entity_id, json.loads(self.data)]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


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
    #: Whether it was submitted before, under the same key.
    existed: bool = False


class Submitter:
    """Submits jobs to one start: a stage, or a topic."""

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        store: JobStore,
        producer: EventProducer,
        start: str,
        *,
        asks_bridges: bool = False,
    ) -> None:
        """``start`` names a stage or a topic; raise ``InvalidEventError`` for an unknown one.

        ``registry``: the stages at hand. ``asks_bridges``: look for others in what the service's bridges run;
        raise the ServiceError of a DynamoDB that does not answer. Raise ``ConfigurationError`` where topics
        are shared (``check_topics``).
        """
        check_topics(settings, registry)
        self._settings = settings
        self._registry = registry
        self._producer = producer
        self._store = store
        self._payloads = Payloads(settings)
        self._ledger = Ledger(settings, store, producer, Patience(waits=False))
        self._start = find_start(registry, start, store.deployments.all if asks_bridges else None)
        self.topic = self._start.topic
        #: What writes to the topic with a schema; its readers expect nothing else there.
        self._emitter = next((each for each in registry.emitters(self.topic) if each.topic_schema), None)
        self._encoder = Encoder(settings, Patience(waits=False))

    def check(self, submission: Submission) -> None:
        """Raise ``InvalidEventError`` or ``InvalidInputError`` if the job could only fail.

        Checks entity and key, the data by the stages that are at hand, and the size of the messages that it
        makes.
        """
        check_entity(submission.entity_id)
        check_key(submission.key)
        events.checked_json(submission.data)
        if self._emitter:
            self._check_schema(self._emitter, submission.data)
        job = self._named(submission)
        event = self._event(_Begun(job=job, submission=submission, plan=self._start.plan))
        for route in self._start.consumers:
            if stage := self._registry.by_name.get(route.name):
                stage.load_input(submission.data)
            self._check_size(taskmessage.for_event(route, event, job.job_id, job.submitted_at, event.plan_id))

    def submit(self, submissions: Sequence[Submission]) -> list[SubmittedJob | PipelineError]:
        """Open a job for each and emit its event; return the job, or the error, of each.

        A key that has a job returns that job, or a ``KeyConflictError`` if it was submitted with other data
        or another entity.

        Raise a ServiceError, with nothing written, when Kafka or DynamoDB does not answer, or Kafka lacks the
        topic, or the registry its schema. A job whose event is not acknowledged later is recorded as failed,
        and its error names it; should the event have arrived after all, the job runs and completes. With a
        key it stays open, to be submitted again.
        """
        self._producer.check_topic(self._settings.topic(self.topic), ANSWER_TIMEOUT)
        if self._emitter:
            self._encoder.find_id(self._emitter)
        plan = self._plan()
        begun = [
            _Begun(job=self._named(submission), submission=submission, plan=plan)
            for submission in submissions
        ]
        # Under a key that is given twice the first counts.
        answers = self._begin(list({each.job.job_id: each for each in reversed(begun)}.values())[::-1])
        return [_answer(each, answers[each.job.job_id]) for each in begun]

    def _begin(self, begun: Sequence["_Begun"]) -> dict[str, "_Begun | PipelineError"]:
        """Open jobs of different ids and emit their events; return each as it began, or its error, by id."""
        opened = self._ledger.open([self._new_job(each) for each in begun])
        existing = self._ledger.jobs(opened.existing)
        answers: dict[str, _Begun | PipelineError] = {}
        unsent: list[_Begun] = []
        for each, error in zip(begun, opened.errors, strict=True):
            job = existing.get(each.job.job_id)
            known = each if job is None else each.as_recorded(job)
            answers[each.job.job_id] = error or known
            if error is None and (job is None or _lacks_event(job, each.submission)):
                unsent.append(known)
        for each, error in zip(unsent, self._emit(unsent), strict=True):
            if error is not None:
                answers[each.job.job_id] = error
        return answers

    def _emit(self, begun: Sequence["_Begun"]) -> list[ServiceError | None]:
        """Emit the first events of jobs; record which jobs have theirs, or failed without it."""
        topic = self._settings.topic(self.topic)
        kept = [self._kept(self._event(each)) for each in begun]
        made = [each for each in kept if isinstance(each, Event)]
        spans = [tracing.send_span(topic, event) for event in made]
        records = [self._record(event, span.traceparent) for event, span in zip(made, spans, strict=True)]
        answers = self._ledger.emit("submit", records)
        acknowledged = iter(answers)
        emitted = [next(acknowledged) if isinstance(each, Event) else each for each in kept]
        for span, error in zip(spans, answers, strict=True):
            if error is not None:
                span.fail(type(error).__qualname__, str(error))
            span.end()
        self._mark_sent(
            each.job.job_id
            for each, error in zip(begun, emitted, strict=True)
            if error is None and each.submission.key is not None
        )
        return [
            None if error is None else self._unsent(each, error)
            for each, error in zip(begun, emitted, strict=True)
        ]

    def _kept(self, event: Event) -> Event | ServiceError:
        """Return an event, the data of a large one on S3; or the error of S3."""
        try:
            return referenced(self._payloads, event)
        except ServiceError as error:
            return error

    def _mark_sent(self, job_ids: Iterable[str]) -> None:
        """Record that jobs with a key have their events. Without the mark an event is only sent again."""
        marked = list(job_ids)
        if marked and (errors := self._store.records.mark_sent(marked)):
            log.warning("submit.not_marked", jobs=len(errors), error=str(errors[0]))

    def _unsent(self, begun: "_Begun", error: ServiceError) -> ServiceError:
        """Return the error of a job whose event was not acknowledged; without a key, record it as failed."""
        job_id = begun.job.job_id
        if begun.submission.key is None:
            self._give_up(begun.job, error)
            why = f"Job {job_id} is recorded as failed, its event was not acknowledged: {error}"
        else:
            why = (
                f"Job {job_id} is open, and its event was not acknowledged: {error}. "
                f"Submit it again with the key {begun.submission.key!r}, or cancel it"
            )
        named = type(error)(why)
        named.__cause__ = error
        return named

    def _plan(self) -> JobPlan:
        """Return the plan that the bridges follow: another version may be deployed than this process has."""
        live = current(self._store.deployments.all(), time.time())
        followed = plan_from(live.routes, self.topic) if live else None
        return followed if followed and followed.stages else self._start.plan

    @property
    def _source(self) -> str:
        return f"/{self._settings.service_name}/submit"

    def _named(self, submission: Submission) -> SubmittedJob:
        key = submission.key
        event_id = (
            str(uuid.uuid4()) if key is None else identity.submitted_event_id(self._source, self.topic, key)
        )
        return SubmittedJob(
            job_id=identity.job_id(self._source, event_id),
            entity_id=event_id if submission.entity_id is None else submission.entity_id,
            topic=self.topic,
            event_id=event_id,
            submitted_at=time.time(),
        )

    def _new_job(self, begun: "_Begun") -> NewJob:
        return NewJob(
            job_id=begun.job.job_id,
            entity_id=begun.job.entity_id,
            topic=self.topic,
            plan=begun.plan,
            submitted_at=begun.job.submitted_at,
            event=(self._source, begun.job.event_id),
            digest=None if begun.submission.key is None else begun.submission.digest,
        )

    def _event(self, begun: "_Begun") -> Event:
        job = begun.job
        return Event(
            id=job.event_id,
            source=self._source,
            type=self.topic,
            time=datetime.fromtimestamp(job.submitted_at, UTC),
            entity_id=job.entity_id,
            data=begun.submission.data,
            job_id=job.job_id,
            submitted_at=job.submitted_at,
            plan_id=begun.plan.id,
        )

    def _record(self, event: Event, traceparent: str | None) -> OutgoingRecord:
        # What is on S3 is there as JSON.
        emitter = None if event.reference else self._emitter
        data = _as_emitted(emitter, event.data) if emitter else event.data
        written = self._encoder.write(emitter, data)
        key, _, headers = events.encode(event.continuing(traceparent), written.content_type)
        topic = self._settings.topic(self.topic)
        return OutgoingRecord(topic=topic, key=key, value=written.value, headers=headers)

    def _check_schema(self, emitter: Stage[Any, Any], data: bytes) -> None:
        """Refuse data that the schema of the topic has no place for."""
        assert emitter.topic_schema is not None
        try:
            emitter.topic_schema.body(_as_emitted(emitter, data))
        except PermanentError as error:
            raise InvalidEventError(f"topic {self.topic} has a schema: {error}") from error

    def _check_size(self, task: TaskMessage) -> None:
        """Refuse data that SQS has no room for; without SQS a task has no message, on S3 it has room."""
        if self._settings.payload_bucket is not None:
            return
        message = OutgoingMessage(**task.to_sqs())
        room = MAX_MESSAGE_BYTES - message.room - TRACE_BYTES
        if self._settings.use_sqs_task_processing and message.size > room:
            raise InvalidEventError(
                f"the message of its task would have {message.size:,} bytes, and SQS takes {room:,}: "
                f"{SET_BUCKET}"
            )

    def _give_up(self, job: SubmittedJob, error: ServiceError) -> None:
        """Record the job as failed, so that it is not listed as running for ever."""
        self._ledger.fail(
            [
                FailedTask(
                    ref=StageRef(job_id=job.job_id, stage=route.name),
                    task_id=identity.task_id(self._source, job.event_id, route.name, None),
                    error=type(error).__name__,
                    message=f"the job's first event was not acknowledged: {error}",
                    attempts=0,
                    failed_at=time.time(),
                )
                for route in self._start.consumers
            ]
        )


@dataclass(frozen=True, kw_only=True)
class _Begun:
    """A submission with its job."""

    job: SubmittedJob
    submission: Submission
    plan: JobPlan
    #: Of what is recorded under its key, where another submission came first.
    recorded: str | None = None

    def as_recorded(self, job: Job) -> Self:
        """Return it with the job that its key has already."""
        submitted = replace(self.job, entity_id=job.entity_id, submitted_at=job.submitted_at, existed=True)
        return replace(self, job=submitted, plan=job.plan, recorded=job.digest)


def _as_emitted(emitter: Stage[Any, Any], data: bytes) -> bytes:
    """Return data as a stage writes it, with the defaults of fields that a person left out."""
    return (emitter.dump_output(emitter.load_output(data)) or "null").encode()


def _lacks_event(job: Job, submission: Submission) -> bool:
    """Whether a job that was opened before may be without its event, which is then sent again.

    It is the same event: its task is dropped, or found to be done, if it was sent before.
    """
    return job.state is JobState.RUNNING and not job.is_sent and job.digest == submission.digest


def _answer(begun: _Begun, answer: _Begun | PipelineError) -> SubmittedJob | PipelineError:
    """Return the answer to a submission: the job of its key, unless that is another submission's."""
    if isinstance(answer, PipelineError):
        return answer
    if begun.submission.key is None:
        return answer.job
    first = answer.recorded or answer.submission.digest
    if first != begun.submission.digest:
        return KeyConflictError(
            f"The key {begun.submission.key!r} has job {answer.job.job_id} on topic {answer.job.topic}, "
            "submitted with other data or another entity: use a key for one thing only"
        )
    return answer.job if begun is answer else replace(answer.job, existed=True)


def check_entity(entity_id: str | None) -> None:
    """Raise ``InvalidEventError`` for an entity that cannot be the key of an event."""
    if entity_id is not None and (fault := events.entity_fault(entity_id)):
        raise InvalidEventError(fault)


def check_key(key: str | None) -> None:
    """Raise ``InvalidEventError`` for a key that names nothing, or is too long."""
    if key is not None and not 0 < len(key) <= KEY_LIMIT:
        raise InvalidEventError(
            f"the key has {len(key):,} characters and may have 1 to {KEY_LIMIT:,}: give one text for each job"
        )
