"""Filling a queue or a topic before a measurement, past any proxy."""

import time
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from benchmarks.ground import Ground
from benchmarks.stages import double, halve
from pipeline.author.registry import REGISTRY
from pipeline.author.stages import Stage
from pipeline.kafka import EventProducer, OutgoingRecord
from pipeline.sqs import OutgoingMessage, SqsQueue
from pipeline.wire import events, identity, taskmessage
from pipeline.wire.events import Coordinates, Event, source_of

SOURCE = "/benchmark"
THREADS = 4
BATCH = 10
#: Seconds for Kafka to acknowledge all events.
EMIT_TIMEOUT = 120.0


def send_all(queue: SqsQueue, messages: Sequence[OutgoingMessage]) -> None:
    """Send messages; raise the first error."""
    batches = [messages[at : at + BATCH] for at in range(0, len(messages), BATCH)]
    with ThreadPoolExecutor(THREADS) as pool:
        for answers in pool.map(queue.send, batches):
            for error in answers:
                if error is not None:
                    raise error


def stage_messages(count: int) -> list[OutgoingMessage]:
    """Return tasks of the stage ``double``, each of its own job, as a bridge makes them."""
    return [message_of(double, str(number).encode()) for number in range(count)]


def group_messages(count: int) -> list[OutgoingMessage]:
    """Return tasks of the stage ``halve``, all of one entity and so of one group."""
    return [message_of(halve, str(number).encode(), entity_id="one") for number in range(count)]


def message_of(stage: Stage[Any, Any], data: bytes, entity_id: str | None = None) -> OutgoingMessage:
    """Return the task of a stage, of its own job, as a bridge makes it."""
    event = first_event(stage.consumes, data)
    event = replace(event, entity_id=entity_id or event.entity_id)
    assert event.job_id is not None
    assert event.submitted_at is not None
    # As a bridge sends it: without the id of its plan each settled task costs a read of its job.
    plan = REGISTRY.plan(stage.consumes).id
    message = taskmessage.for_event(stage, event, event.job_id, event.submitted_at, plan)
    return OutgoingMessage(**message.to_sqs())


def first_event(topic: str, data: bytes) -> Event:
    """Return the first event of a new job, with the id that the bridge gives the job."""
    event_id, now = str(uuid.uuid4()), time.time()
    return Event(
        id=event_id,
        source=SOURCE,
        type=topic,
        time=datetime.fromtimestamp(now, UTC),
        entity_id=event_id,
        data=data,
        job_id=identity.job_id(SOURCE, event_id),
        submitted_at=now,
        coordinates=Coordinates(topic=topic, partition=0, offset=0, timestamp_ms=int(now * 1000)),
    )


def middle_events(ground: Ground, count: int) -> list[Event]:
    """Return events as ``double`` emits them, each of its own job."""
    topic = double.emits
    assert topic is not None
    return [
        stage_event(ground, double.name, first_event(topic, str(number).encode())) for number in range(count)
    ]


def stage_event(ground: Ground, stage: str, event: Event) -> Event:
    """Return the event as a stage of the service emits it, with its job recorded.

    It names the plan of a job that began with this stage, as a worker's events do.
    """
    plan = REGISTRY.plan(REGISTRY.by_name[stage].consumes).id
    source = source_of(ground.settings.service_name, stage)
    return replace(event, source=source, stage=stage, plan_id=plan)


def emit_all(ground: Ground, sent: Sequence[Event]) -> None:
    """Put events on Kafka; raise the first error."""
    produce_all(ground, [record(ground, event) for event in sent])


def produce_all(ground: Ground, records: Sequence[OutgoingRecord]) -> None:
    """Put records on Kafka; raise the first error."""
    producer = EventProducer(ground.settings, "benchmark")
    try:
        for error in producer.emit(records, EMIT_TIMEOUT):
            if error is not None:
                raise error
    finally:
        producer.close(1.0)


def record(ground: Ground, event: Event) -> OutgoingRecord:
    """Return the Kafka record of an event."""
    key, value, headers = events.encode(event)
    return OutgoingRecord(topic=ground.settings.topic(event.type), key=key, value=value, headers=headers)
