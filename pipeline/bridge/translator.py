"""Translation of Kafka records: a task for each stage that reads the topic, or a rejection.

A tombstone (a record without a value) makes tasks for the stages that ask for it; the others pass it over. On
a topic of others the service's consumers make events of a record, and these their tasks.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Self

from pipeline.author.consumers import Consumer
from pipeline.bridge.consuming import Consuming
from pipeline.bridge.knownplans import KnownPlans
from pipeline.errors import InvalidEventError
from pipeline.jobs import NewJob
from pipeline.kafka import ReceivedRecord
from pipeline.registry.contents import Contents
from pipeline.settings import Settings
from pipeline.telemetry import metrics
from pipeline.wire import events, identity, taskmessage
from pipeline.wire.events import Coordinates, Event, redrive_of
from pipeline.wire.plans import JobPlan, Route
from pipeline.wire.redaction import redact
from pipeline.wire.taskmessage import TaskMessage
from pipeline.worker.child.outcome import MESSAGE_LIMIT, failed

_DAY = 86_400


@dataclass(frozen=True, kw_only=True, slots=True)
class Rejection:
    """An event that cannot become a task, or was given up on as one."""

    record: ReceivedRecord
    #: None for a record that is no event.
    event: Event | None = None
    #: The job it belongs to, when it is known.
    job_id: str | None = None
    #: That job, to be opened first, so that its failure is seen; None when it was opened before.
    job: NewJob | None = None
    #: The exception's class, and its message: redacted and cut here, as it may quote the event.
    error: str
    message: str
    #: The stage whose task it cannot become, or in which it failed; None for all stages of the topic.
    stage: str | None = None
    #: The consumer that raised it, or that made the event of it; None for a record that is an event itself.
    consumer: str | None = None
    #: Failed runs, and the traceback of the last, where its stage was run.
    attempts: int = 0
    traceback: str = ""

    def __post_init__(self) -> None:
        message = f"consumer {self.consumer}: {self.message}" if self.consumer else self.message
        object.__setattr__(self, "message", redact(message)[:MESSAGE_LIMIT])

    @property
    def made_bytes(self) -> int:
        """Bytes that are held beside the record."""
        return 0

    def concerns(self, route: Route) -> bool:
        """Whether the event would have become a task of a stage that reads its topic."""
        asked = self.record.value is not None or self.consumer is not None or route.tombstones
        return asked and self.stage in (None, route.name)


@dataclass(frozen=True, kw_only=True, slots=True)
class EventTasks:
    """The tasks of one event."""

    record: ReceivedRecord
    event: Event
    job_id: str
    #: The job, to be opened before any of its tasks leaves; None when an earlier event opened it.
    job: NewJob | None
    #: When the job was submitted; seconds since 1970.
    submitted_at: float
    #: Logical name of its topic.
    topic: str
    #: The job's plan; None where only the job's record can tell it.
    plan: JobPlan | None
    #: Whether ``plan`` is the job's for certain, unless the record of a job to be opened was there before.
    is_certain: bool
    #: One for each stage of the plan that reads the topic.
    tasks: tuple[tuple[Route, TaskMessage], ...]
    #: The consumer that made the event of the record; None for a record that is an event itself.
    consumer: str | None = None

    @property
    def made_bytes(self) -> int:
        """Bytes that are held beside the record: the data of an event that a consumer made."""
        return len(self.event.data) if self.consumer else 0

    def under(self, plan: JobPlan, routes: Iterable[Route], *, is_certain: bool = True) -> Self:
        """Return the event with the tasks of ``routes``, the stages of ``plan`` that read its topic.

        A tombstone makes those of the stages that ask for it.
        """
        tasks = (
            (route, taskmessage.for_event(route, self.event, self.job_id, self.submitted_at, plan.id))
            for route in routes
            if self.record.value is not None or self.consumer is not None or route.tombstones
        )
        return replace(self, plan=plan, is_certain=is_certain, tasks=tuple(tasks))

    def apart(self) -> Self:
        """Return the event with a job of its own on this topic: on another one it began the same job."""
        assert self.job is not None
        job_id = identity.further_job_id(self.job_id, self.topic)
        return replace(self, job_id=job_id, job=replace(self.job, job_id=job_id))

    def reject(
        self, stage: str | None, error: str, message: str, *, attempts: int = 0, traceback: str = ""
    ) -> Rejection:
        """Return the rejection of this event as a task of ``stage``; its job has been opened."""
        return Rejection(
            record=self.record,
            event=self.event,
            job_id=self.job_id,
            error=error,
            message=message,
            stage=stage,
            consumer=self.consumer,
            attempts=attempts,
            traceback=traceback,
        )


class Translator:
    """Translates the records of a service's topics and of its consumers' topics. It asks no service."""

    def __init__(
        self,
        settings: Settings,
        plans: KnownPlans,
        topics: Iterable[str],
        consuming: Consuming | None = None,
        clock: Callable[[], float] = time.time,
        contents: Contents | None = None,
    ) -> None:
        """``topics``: the logical names of those of stages to consume."""
        self._settings = settings
        self._plans = plans
        self._consuming = consuming or Consuming(settings, ())
        self._contents = contents or Contents(settings)
        self._clock = clock
        #: The Kafka topics of stages to consume, and the logical name of each.
        self._topics = {settings.topic(name): name for name in topics}

    @property
    def topics(self) -> tuple[str, ...]:
        """The Kafka topics to consume: of stages, and of others."""
        return (*self._topics, *self._consuming.topics)

    def translate(self, record: ReceivedRecord) -> list[EventTasks | Rejection]:
        """Return the tasks of each event of a record, or why there are none.

        Empty for a tombstone that nobody asks for, and for a record that its consumers pass over.
        """
        topic = self._topics.get(record.topic)
        if topic is None:
            return self._consume(record)
        if record.value is None and not self._plans.take_tombstones(topic):
            metrics.TOMBSTONES.labels(record.topic).inc()
            return []
        expired = True
        try:
            self.check_age(record)
            expired = False
            return [self._tasks(record, event_of(self._contents.read(record)), topic)]
        except Exception as error:  # noqa: BLE001 - a mistake of ours must not block a partition either
            return [self._reject(record, error, topic, expired=expired)]

    def _consume(self, record: ReceivedRecord) -> list[EventTasks | Rejection]:
        consumers = self._consuming.consumers_of(record)
        if not consumers:
            metrics.TOMBSTONES.labels(record.topic).inc()
            return []
        try:
            self.check_age(record)
            read = self._contents.read(record)
            event = event_of(read)
        except Exception as error:  # noqa: BLE001 - as above
            return [Rejection(record=record, error=type(error).__name__, message=str(error))]
        seen = replace(record, key=read.key)
        return [made for consumer in consumers for made in self._consume_with(consumer, record, seen, event)]

    def _consume_with(
        self, consumer: Consumer[Any, Any], record: ReceivedRecord, seen: ReceivedRecord, event: Event
    ) -> list[EventTasks | Rejection]:
        """Return the tasks of all events that a consumer makes of a record, or of none.

        ``seen``: the record with its key as text.
        """
        try:
            made = self._consuming.run(consumer, seen, event)
            return [self._tasks(record, each, consumer.emits, consumer.name) for each in made]
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - user code may raise anything, SystemExit too
            failure = failed(error)
            return [
                Rejection(
                    record=record,
                    consumer=consumer.name,
                    error=failure.error,
                    message=failure.message,
                    traceback=failure.traceback,
                )
            ]

    def check_age(self, record: ReceivedRecord) -> None:
        """Refuse an event older than any record of its job: its counters are gone and would count anew."""
        written = _first_written(record)
        days = (self._clock() - written) / _DAY
        # A record without a timestamp (-1, of an old broker) has no age.
        if written > 0 and days > self._settings.job_expiry_days:
            raise InvalidEventError(
                f"the event is {days:.1f} days old, and records of jobs expire after "
                f"{self._settings.job_expiry_days} (JOB_EXPIRY_DAYS): what of it was done is no longer known"
            )

    def job_of(
        self, event: Event, record: ReceivedRecord, topic: str, *, made: bool = False
    ) -> tuple[str, float, NewJob | None]:
        """Return an event's job id, when the job was submitted, and the job where this event is its first.

        ``topic``: the event's logical topic. ``made``: a consumer made it of the record.
        """
        job_id, begins = event.job_in(self._settings.service_name, topic)
        submitted_at = self._submitted_at(record, event.submitted_at)
        if not begins:
            return job_id, submitted_at, None
        if made:
            plan = self._plans.beginning_here(topic)
        else:
            plan = self._plans.beginning(topic, event.plan_id, tombstone=record.value is None)
        job = NewJob(
            job_id=job_id,
            entity_id=event.entity_id,
            topic=topic,
            plan=plan,
            submitted_at=submitted_at,
            event=(event.source, event.id),
        )
        return job_id, submitted_at, job

    def _check_reference(self, event: Event) -> None:
        """Refuse an event whose data is not in the bucket of this service."""
        if event.reference is None:
            return
        ours = self._settings.payload_bucket
        if ours is None:
            raise InvalidEventError(
                f"its data is on S3, in bucket {event.bucket}, and PAYLOAD_BUCKET is not set: set it to the "
                "bucket, then redrive"
            )
        if event.bucket != ours or event.reference.role != "event":
            raise InvalidEventError(
                f"its data is on S3 at {event.reference.uri(event.bucket or '')}, and events are read from "
                f"PAYLOAD_BUCKET={ours} only: let both services use one bucket, or send the data as the value"
            )

    def _tasks(
        self, record: ReceivedRecord, event: Event, topic: str, consumer: str | None = None
    ) -> EventTasks:
        self._check_reference(event)
        job_id, submitted_at, job = self.job_of(event, record, topic, made=consumer is not None)
        plan = job.plan if job else self._plans.find(event.plan_id)
        tasks = EventTasks(
            record=record,
            event=event,
            job_id=job_id,
            # A topic that only an earlier deployment consumes begins no job any more.
            job=job if job and job.plan.stages else None,
            submitted_at=submitted_at,
            topic=topic,
            plan=plan,
            is_certain=plan is not None and plan.id == event.plan_id,
            tasks=(),
            consumer=consumer,
        )
        if plan is None:
            return tasks
        return tasks.under(plan, self._plans.routes(plan, topic), is_certain=tasks.is_certain)

    def _submitted_at(self, record: ReceivedRecord, claimed: float | None = None) -> float:
        """Return when the job was submitted, never later than its event was written.

        How long ago that is decides whether a task may be a replay; a producer's own clock or claim of a
        later moment must not hide one.
        """
        known = [self._clock(), claimed, _first_written(record)]
        return min(moment for moment in known if moment is not None and moment > 0)

    def _reject(self, record: ReceivedRecord, error: Exception, topic: str, *, expired: bool) -> Rejection:
        job_id, begins = events.job_named(self._settings.service_name, record.headers, topic)
        job = None
        if job_id and begins and not expired:
            # Without a record nobody would see the job fail.
            entity_id = (record.key or b"").decode(errors="replace")[: events.ENTITY_LIMIT] or job_id
            job = NewJob(
                job_id=job_id,
                entity_id=entity_id,
                topic=topic,
                plan=self._plans.beginning(topic, tombstone=record.value is None),
                submitted_at=self._submitted_at(record),
            )
            job = job if job.plan.stages else None
        return Rejection(
            record=record, job_id=job_id, job=job, error=type(error).__name__, message=str(error)
        )


def event_of(record: ReceivedRecord) -> Event:
    """Return the event in a record, of a tombstone with null as its data; raises ``InvalidEventError``."""
    return events.decode(
        key=record.key,
        value=b"null" if record.value is None else record.value,
        headers=record.headers,
        coordinates=Coordinates(
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            timestamp_ms=record.timestamp_ms,
        ),
    )


def _first_written(record: ReceivedRecord) -> float:
    """Return when the event was first written, in seconds since 1970: before its redrive, if any."""
    redrive = redrive_of(record.headers, record.topic, record.key, record.value)
    return (redrive or record).timestamp_ms / 1000
