"""Fills a queue or a topic before a measurement, past any proxy."""

import time
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from benchmarks.ground import Ground
from benchmarks.stages import double, halve
from pipeline import events, taskmessage
from pipeline.events import Coordinates, Event, source_of
from pipeline.kafka import EventProducer, Record
from pipeline.sqs import OutgoingMessage
from pipeline.stages import Stage

THREADS = 4
BATCH = 10
#: Seconds for Kafka to take all events.
EMIT_TIMEOUT = 120.0


def send_all(ground: Ground, messages: Sequence[OutgoingMessage]) -> None:
    """Send them; raises the first error."""
    queue = ground.queue
    batches = [messages[at : at + BATCH] for at in range(0, len(messages), BATCH)]
    with ThreadPoolExecutor(THREADS) as pool:
        for answers in pool.map(queue.send, batches):
            for error in answers:
                if error is not None:
                    raise error


def stage_messages(count: int) -> list[OutgoingMessage]:
    """Tasks of the stage ``double``, each of a job of its own, as a bridge would have made them."""
    return [_message(double, str(number).encode()) for number in range(count)]


def group_messages(count: int) -> list[OutgoingMessage]:
    """Tasks of the stage ``halve``, all of one entity and so of one group."""
    return [_message(halve, str(number).encode(), entity_id="one") for number in range(count)]


def _message(stage: Stage[Any, Any], data: bytes, entity_id: str | None = None) -> OutgoingMessage:
    event = first_event(stage.consumes, data)
    event = replace(event, entity_id=entity_id or event.entity_id)
    assert event.job_id is not None
    assert event.submitted_at is not None
    message = taskmessage.for_event(stage, event, event.job_id, event.submitted_at)
    return OutgoingMessage(**message.to_sqs())


def first_event(topic: str, data: bytes) -> Event:
    """The first event of a job of its own."""
    event_id, now = str(uuid.uuid4()), time.time()
    return Event(
        id=event_id,
        source="/benchmark",
        type=topic,
        time=datetime.fromtimestamp(now, UTC),
        entity_id=event_id,
        data=data,
        job_id=event_id,
        submitted_at=now,
        coordinates=Coordinates(topic=topic, partition=0, offset=0, timestamp_ms=int(now * 1000)),
    )


def middle_events(ground: Ground, count: int) -> list[Event]:
    """Events that ``double`` might have emitted, each of a job of its own."""
    topic = double.emits
    assert topic is not None
    return [emitted(ground, double.name, first_event(topic, str(number).encode())) for number in range(count)]


def emitted(ground: Ground, stage: str, event: Event) -> Event:
    """The event as a stage of the service emits it: its job is there."""
    return replace(event, source=source_of(ground.settings.service_name, stage), stage=stage)


def emit_all(ground: Ground, sent: Sequence[Event]) -> None:
    """Put events on Kafka; raises the first error."""
    records = [record(ground, event) for event in sent]
    producer = EventProducer(ground.settings, "benchmark")
    try:
        for error in producer.emit(records, EMIT_TIMEOUT):
            if error is not None:
                raise error
    finally:
        producer.close(1.0)


def record(ground: Ground, event: Event) -> Record:
    """The Kafka record of an event of that topic."""
    key, value, headers = events.encode(event)
    return Record(topic=ground.settings.topic(event.type), key=key, value=value, headers=headers)
