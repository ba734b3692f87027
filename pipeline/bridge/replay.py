"""Replay: sends one stage's tasks again for events that Kafka still has, outside the consumer group.

They are on the stage's topic, and on the topics of others whose consumers make events for it.

The tasks have the ids they had, so done tasks stay done. A replay that runs them again has an id of its own:
each event then counts as a new one, with a task, a job and everything downstream of its own.
"""

import re
import secrets
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from typing import Any, Literal

import structlog

from pipeline.author.consumers import Consumer
from pipeline.author.registry import Registry
from pipeline.author.stages import Stage
from pipeline.bridge.consuming import Consuming
from pipeline.bridge.knownplans import KnownPlans
from pipeline.bridge.queuedepths import MAX_DEPTH
from pipeline.bridge.translator import Translator, event_of
from pipeline.errors import (
    ConfigurationError,
    InvalidEventError,
    MessageRefusedError,
)
from pipeline.jobs import JobStore, NewJob
from pipeline.kafka import EventProducer, ReceivedRecord, scan
from pipeline.ledger import Dispatch, Ledger
from pipeline.patience import Patience, raise_first
from pipeline.payloads import SET_BUCKET, Payloads, shrinking
from pipeline.registry.contents import Contents
from pipeline.settings import Settings
from pipeline.sqs import MAX_MESSAGE_BYTES, OutgoingMessage, SqsQueue, sqs_client
from pipeline.wire import identity, taskmessage
from pipeline.wire.events import Event
from pipeline.wire.plans import plan_from_stage
from pipeline.wire.taskmessage import TaskMessage
from pipeline.worker.child.outcome import failed

log = structlog.get_logger(__name__)

#: Tasks sent together: fifty requests of SQS.
CHUNK = 500

#: Requests under way at once, as many as a bridge has.
THREADS = 4

#: Events between two checks of the queue's depth, and seconds between two while it is too deep.
CHECK_EVERY, DEPTH_PAUSE = 10_000, 5.0

#: When the replay began, in seconds since 1970, and eight random digits.
_REPLAY_ID = re.compile(r"(\d{9,11})-[0-9a-f]{8}")


@dataclass(frozen=True, kw_only=True)
class ReplayId:
    """The id of a replay that runs events again; under the same id its tasks are not new."""

    text: str
    #: When it began, in seconds since 1970: when the jobs it makes were submitted.
    began_at: float

    @classmethod
    def new(cls) -> "ReplayId":
        """Return the id of a replay that begins now."""
        return cls.read(f"{int(time.time())}-{secrets.token_hex(4)}")

    @classmethod
    def read(cls, text: str) -> "ReplayId":
        """Read the id of an earlier replay; raises ``ValueError``."""
        match = _REPLAY_ID.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} is not the id of a replay, like 1795501794-9f3a12bc")
        return cls(text=text, began_at=float(match[1]))


@dataclass(frozen=True, kw_only=True)
class Window:
    """The events of the topic to replay."""

    #: Kafka's timestamps, in seconds since 1970: from the first on, up to and without the second.
    begin: float
    end: float
    #: Only events of this entity; None: of all.
    entity_id: str | None = None
    #: Only the first event of this job, of which a topic has one, copies aside. Instead of an entity.
    of_job: str | None = None


@dataclass(frozen=True, kw_only=True)
class Found:
    """One event in the window, or a record that is none."""

    #: The Kafka topic that it was read from.
    topic: str
    partition: int
    offset: int
    #: Its timestamp on Kafka, in seconds since 1970.
    written_at: float
    #: None for a record that is no event: the bridge put it on the DLQ topic.
    event: Event | None = None
    task: TaskMessage | None = None
    job_id: str | None = None
    #: The job, to be opened before its task is sent; None when an earlier event opened it.
    job: NewJob | None = None
    #: Why it makes no task.
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class Replayed:
    """The outcome of one record."""

    #: "found": nothing was sent, as asked. "invalid": it is no event. "refused": SQS does not take its task.
    outcome: Literal["sent", "found", "invalid", "refused"]
    found: Found
    why: str = ""

    def fields(self) -> dict[str, Any]:
        """Return the fields of its line of JSON."""
        found = self.found
        return {
            "outcome": self.outcome,
            "task_id": found.task.task_id if found.task else None,
            "job_id": found.job_id,
            "event_id": found.event.id if found.event else None,
            "entity_id": found.event.entity_id if found.event else None,
            "topic": found.topic,
            "partition": found.partition,
            "offset": found.offset,
            "time": datetime.fromtimestamp(found.written_at, UTC).isoformat(),
            "why": self.why,
        }


class Replay:
    """Sends one stage's tasks again, from the events on its topic. Joins no group and commits nothing."""

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        store: JobStore,
        stage: Stage[Any, Any],
        again: ReplayId | None,
    ) -> None:
        """``again``: run done tasks as new events of this replay; None: done tasks stay done."""
        if not (settings.kafka_enabled and settings.use_sqs_task_processing):
            raise ConfigurationError(
                "KAFKA_ENABLED or USE_SQS_TASK_PROCESSING is false: a replay reads Kafka and sends to SQS."
            )
        self._settings = settings
        self._stage = stage
        self._again = again
        self._consuming = Consuming(settings, registry.consumers_to(stage.consumes))
        self._contents = Contents(settings)
        self._translator = Translator(
            settings,
            KnownPlans(registry.routes),
            registry.consumed_topics,
            self._consuming,
            contents=self._contents,
        )
        self._plan = plan_from_stage(registry.routes, stage.route)
        self._patience = Patience()
        client = sqs_client(settings)
        shrink = shrinking(Payloads(settings))
        self._queue = cache(lambda name: SqsQueue(client, settings.queue_url(name), shrink))
        self._dispatch = Dispatch(settings, registry, self._queue, self._patience)
        # Opens jobs only, so its producer makes no client.
        self._ledger = Ledger(settings, store, EventProducer(settings, "replay"), self._patience)
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="replay")
        self._until_check = 0
        #: Whether anything may have been opened or sent.
        self.has_begun = False

    @property
    def topics(self) -> tuple[str, ...]:
        """The topics that are read, by their names on Kafka: the stage's, and those of its consumers."""
        return (self._settings.topic(self._stage.consumes), *self._consuming.topics)

    def run(self, window: Window, *, dry: bool) -> Iterator[Replayed]:
        """Replay the window; ``dry``: only report what would be sent. Waits for services that are away.

        Each partition is read in its order, so each group of an ordered stage too. It may be interrupted
        anywhere and repeated. Raises the ServiceRefusedError of a service that takes nothing.
        """
        chunk: list[Found] = []
        for found in self._find(window):
            chunk.append(found)
            if len(chunk) == CHUNK:
                yield from self._see_through(chunk, dry)
                chunk = []
        yield from self._see_through(chunk, dry)

    def close(self) -> None:
        """End after the requests under way."""
        self._patience.end()
        self._pool.shutdown(cancel_futures=True)
        self._contents.close()

    # ─── Reading ───

    def _find(self, window: Window) -> Iterator[Found]:
        # Kafka knows no parts of a millisecond.
        begin, end = int(window.begin * 1000), int(window.end * 1000)
        for message in self._records(window.begin):
            if not begin <= message.timestamp_ms < end:
                continue
            for found in self._found(message):
                if window.of_job is not None:
                    if found.job_id == self._replayed(window.of_job):
                        yield found
                        return
                elif window.entity_id is None or (found.event and found.event.entity_id == window.entity_id):
                    yield found

    def _records(self, since: float) -> Iterator[ReceivedRecord]:
        # To each topic's end: timestamps are the producers' own, and need not be in order.
        for topic in self.topics:
            yield from scan(self._settings, topic, since=since)

    def _found(self, message: ReceivedRecord) -> Iterator[Found]:
        """Yield the stage's events in a record, with their tasks, or why it has none."""
        is_own = message.topic == self.topics[0]
        if message.value is None and not (self._stage.tombstones if is_own else self._asked(message)):
            return
        found = Found(
            topic=message.topic,
            partition=message.partition,
            offset=message.offset,
            written_at=message.timestamp_ms / 1000,
        )
        try:
            read = self._patience.one("schema registry", lambda: self._contents.read_now(message))
            event = event_of(read)
            if self._again is None:
                self._translator.check_age(message)
        except InvalidEventError as error:
            yield replace(found, why=str(error))
            return
        if is_own:
            yield self._of_event(found, event, message)
            return
        seen = replace(message, key=read.key)
        for consumer in self._asked(message):
            yield from self._consume(consumer, found, event, seen)

    def _asked(self, message: ReceivedRecord) -> list[Consumer[Any, Any]]:
        return self._consuming.consumers_of(message)

    def _consume(
        self, consumer: Consumer[Any, Any], found: Found, event: Event, message: ReceivedRecord
    ) -> Iterator[Found]:
        try:
            made = self._consuming.run(consumer, message, event)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - user code may raise anything, SystemExit too
            yield replace(found, why=f"consumer {consumer.name}: {failed(error).message}")
            return
        for each in made:
            yield self._of_event(found, each, message, made=True)

    def _of_event(self, found: Found, event: Event, message: ReceivedRecord, *, made: bool = False) -> Found:
        if self._again is not None:
            return self._as_new(found, event, self._again)
        topic = self._stage.consumes
        job_id, submitted_at, job = self._translator.job_of(event, message, topic, made=made)
        return self._with_task(replace(found, event=event, job=job), job_id, submitted_at)

    def _replayed(self, job_id: str) -> str:
        """Return the job id that a replayed event runs under."""
        return job_id if self._again is None else identity.replayed_job_id(self._again.text, job_id)

    def _as_new(self, found: Found, event: Event, again: ReplayId) -> Found:
        """Return the event as a new one, with a job of its own."""
        job_id = self._replayed(event.job_in(self._settings.service_name, self._stage.consumes)[0])
        event_id = identity.replayed_event_id(again.text, event.source, event.id)
        job = NewJob(
            job_id=job_id,
            entity_id=event.entity_id,
            topic=self._stage.consumes,
            plan=self._plan,
            # The same when the replay is resumed: how late a task comes in its job tells that it may be done.
            submitted_at=again.began_at,
            event=(event.source, event_id),
        )
        event = replace(
            event,
            id=event_id,
            job_id=job_id,
            generation=0,
        )
        return self._with_task(replace(found, event=event, job=job), job_id, again.began_at)

    def _with_task(self, found: Found, job_id: str, submitted_at: float) -> Found:
        """Add the task; a job of another version has its plan in its record."""
        assert found.event is not None
        task = taskmessage.for_event(self._stage.route, found.event, job_id, submitted_at)
        return replace(found, job_id=job_id, task=task)

    # ─── Sending ───

    def _see_through(self, chunk: Sequence[Found], dry: bool) -> Iterator[Replayed]:
        refusals = [found.why or self._refusal(found) for found in chunk]
        going = [found for found, why in zip(chunk, refusals, strict=True) if not why]
        answers = iter([None] * len(going) if dry else self._send(going))
        for found, why in zip(chunk, refusals, strict=True):
            if why:
                yield Replayed(outcome="refused" if found.event else "invalid", found=found, why=why)
            elif error := next(answers):
                yield Replayed(outcome="refused", found=found, why=str(error))
            else:
                yield Replayed(outcome="found" if dry else "sent", found=found)

    def _refusal(self, found: Found) -> str:
        """Return why SQS would refuse the task; asked before its job is opened, which would wait for it."""
        message = OutgoingMessage(**_task(found).to_sqs())
        if message.fits or self._settings.payload_bucket is not None:
            return ""
        room = MAX_MESSAGE_BYTES - message.room
        return f"its task would have {message.size} bytes, SQS takes {room}: {SET_BUCKET}"

    def _send(self, going: Sequence[Found]) -> list[Exception | None]:
        self._wait_for_room(len(going))
        self.has_begun = True
        # A job has its record before its first task can be done.
        raise_first(self._ledger.open([found.job for found in going if found.job]).errors)
        # A group's tasks stay on one thread, in their order.
        shares: dict[int, list[int]] = {}
        for at, found in enumerate(going):
            assert found.task is not None
            shares.setdefault(hash(found.task.group_id) % THREADS, []).append(at)
        sending = [
            (share, self._pool.submit(self._dispatch.send, [_task(going[at]) for at in share]))
            for share in shares.values()
        ]
        errors: list[Exception | None] = [None] * len(going)
        for share, answers in sending:
            for at, error in zip(share, answers.result(), strict=True):
                errors[at] = error
        raise_first([error for error in errors if not isinstance(error, MessageRefusedError)])
        return errors

    def _wait_for_room(self, count: int) -> None:
        """Wait until the queue is less deep: a FIFO queue that is too deep shows no other group."""
        self._until_check -= count
        if self._until_check > 0:
            return
        self._until_check = CHECK_EVERY
        queue = self._queue(self._stage.queue or self._settings.task_queue)
        while True:
            depth = self._patience.one("look at the queue", queue.depth)
            if depth.available + depth.in_flight < MAX_DEPTH:
                return
            log.warning("replay.queue_deep", queue=queue.name, messages=depth.available + depth.in_flight)
            time.sleep(DEPTH_PAUSE)


def _task(found: Found) -> TaskMessage:
    assert found.task is not None
    return found.task
