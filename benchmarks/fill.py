"""Fills a queue before a measurement: batches of ten on a few threads, past any proxy."""

import time
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

from benchmarks.ground import Ground
from benchmarks.stages import double
from pipeline import taskmessage
from pipeline.events import Coordinates, Event
from pipeline.sqs import OutgoingMessage
from pipeline.stages import Stage

THREADS = 4
_BATCH = 10


def send_all(ground: Ground, messages: Sequence[OutgoingMessage]) -> None:
    """Send them; raises the first error."""
    queue = ground.queue
    batches = [messages[at : at + _BATCH] for at in range(0, len(messages), _BATCH)]
    with ThreadPoolExecutor(THREADS) as pool:
        for answers in pool.map(queue.send, batches):
            for error in answers:
                if error is not None:
                    raise error


def stage_messages(count: int) -> list[OutgoingMessage]:
    """Tasks of the stage ``double``, each of a job of its own, as a bridge would have made them."""
    return [_message(double, str(number).encode()) for number in range(count)]


def _message(stage: Stage[Any, Any], data: bytes) -> OutgoingMessage:
    event_id, now = str(uuid.uuid4()), time.time()
    event = Event(
        id=event_id,
        source="/benchmark",
        type=stage.consumes,
        time=datetime.fromtimestamp(now, UTC),
        entity_id=event_id,
        data=data,
        coordinates=Coordinates(topic=stage.consumes, partition=0, offset=0, timestamp_ms=int(now * 1000)),
    )
    return OutgoingMessage(**taskmessage.for_event(stage, event, event_id, now).to_sqs())
