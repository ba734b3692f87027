"""From a Kafka record to what leaves the bridge: a task for each stage, or a rejection."""

import time
from collections.abc import Callable

from config.settings import Settings
from consumers.outbox import REJECTED, Entry, Rejection, SharedTicket
from pipeline import events, taskmessage
from pipeline.errors import InvalidEventError
from pipeline.events import Coordinates, Event, redrive_of
from pipeline.jobs import JobPlan, NewJob
from pipeline.kafka import Message
from pipeline.registry import Registry
from pipeline.sqs import OutgoingMessage
from pipeline.telemetry import tracing

_DAY = 86_400


class Translator:
    """Knows the stages and topics of a service; runs no user code and asks no service."""

    def __init__(
        self, settings: Settings, registry: Registry, clock: Callable[[], float] = time.time
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._clock = clock
        #: The Kafka topics to consume, and the logical name of each.
        self.topics = {settings.topic(name): name for name in registry.consumed_topics}
        self._plans = {name: JobPlan(stages=registry.plan(name)) for name in registry.consumed_topics}

    def translate(self, message: Message, ticket: SharedTicket) -> list[Entry]:
        """The entries of one record, at least one; ``ticket`` is shared among them."""
        expired = True
        try:
            self.check_age(message)
            expired = False
            entries = self._entries(message, event_of(message), ticket)
        except Exception as error:  # noqa: BLE001 - also a mistake of ours must not block a partition
            return [self._reject(message, ticket, error, expired=expired)]
        ticket.share(len(entries))
        return entries

    def check_age(self, message: Message) -> None:
        """Refuse what is older than any record of its job: its counters are gone and would count anew."""
        written = _first_written(message)
        days = (self._clock() - written) / _DAY
        # A record without a timestamp (-1, of an old broker) has no age.
        if written > 0 and days > self._settings.job_expiry_days:
            raise InvalidEventError(
                f"the event is {days:.1f} days old, and records of jobs expire after "
                f"{self._settings.job_expiry_days} (JOB_EXPIRY_DAYS): what of it was done is no longer known"
            )

    def job_of(self, event: Event, message: Message) -> tuple[str, float, NewJob | None]:
        """An event's job: its id, when it was submitted, and the job to open where the event is its first."""
        topic = self.topics[message.topic]
        job_id, begins = event.job_in(self._settings.service_name)
        submitted_at = self._submitted_at(message, event.submitted_at)
        job = self._new_job(job_id, event.entity_id, topic, submitted_at) if begins else None
        return job_id, submitted_at, job

    def _entries(self, message: Message, event: Event, ticket: SharedTicket) -> list[Entry]:
        topic = self.topics[message.topic]
        job_id, submitted_at, job = self.job_of(event, message)
        ticket.span = tracing.bridging(event, job_id, self._settings.kafka_consumer_group)
        traced = event.continuing(ticket.span.traceparent)
        entries = []
        for stage in self._registry.consumers(topic):
            task = taskmessage.for_event(stage, traced, job_id, submitted_at)
            entries.append(
                Entry(
                    source=message,
                    event=event,
                    ticket=ticket,
                    job_id=job_id,
                    job=job,
                    destination=task.queue or self._settings.task_queue,
                    stage=stage.name,
                    task=OutgoingMessage(**task.to_sqs()),
                    ordered=stage.ordered,
                )
            )
        return entries

    def _submitted_at(self, message: Message, claimed: float | None = None) -> float:
        """When the job was submitted, never later than its event was written.

        How long ago that is decides whether a task may be a replay; a producer's own clock or claim of a
        later moment must not hide one.
        """
        known = [self._clock(), claimed, _first_written(message)]
        return min(moment for moment in known if moment is not None and moment > 0)

    def _new_job(self, job_id: str, entity_id: str, topic: str, submitted_at: float) -> NewJob:
        return NewJob(
            job_id=job_id,
            entity_id=entity_id,
            topic=topic,
            plan=self._plans[topic],
            submitted_at=submitted_at,
        )

    def _reject(self, message: Message, ticket: SharedTicket, error: Exception, *, expired: bool) -> Entry:
        ticket.span.fail(type(error).__name__, str(error))
        job_id, begins = events.job_named(self._settings.service_name, message.headers)
        rejection = Rejection(error=type(error).__name__, message=str(error))
        job = None
        if job_id and begins and not expired:
            # Without a record nobody would see the job fail.
            entity_id = (message.key or b"").decode(errors="replace")[: events.ENTITY_LIMIT] or job_id
            topic = self.topics[message.topic]
            job = self._new_job(job_id, entity_id, topic, self._submitted_at(message))
        return Entry(
            source=message,
            event=None,
            ticket=ticket,
            job_id=job_id,
            job=job,
            destination=REJECTED,
            rejection=rejection,
        )


def event_of(message: Message) -> Event:
    """The event in a record; raises ``InvalidEventError``."""
    return events.decode(
        key=message.key,
        value=message.value,
        headers=message.headers,
        coordinates=Coordinates(
            topic=message.topic,
            partition=message.partition,
            offset=message.offset,
            timestamp_ms=message.timestamp_ms,
        ),
    )


def _first_written(message: Message) -> float:
    """When the event was written the first time, in seconds since 1970; a redriven one was read before."""
    redrive = redrive_of(message.headers)
    return (redrive or message).timestamp_ms / 1000
