"""Causes of failures: error events with the traceback and the task's data, read from the errors topic."""

import time
from collections.abc import Sequence
from dataclasses import replace

from pipeline.deadletters.reading import open_task
from pipeline.errors import InvalidInputError
from pipeline.jobs import FailureRecord
from pipeline.kafka import scan
from pipeline.settings import ERRORS_TOPIC, Settings
from pipeline.web.model import json_safe
from pipeline.wire.failure import ErrorEvent, decode_error_event
from pipeline.wire.taskmessage import data_of

#: Seconds that a failure's record may be ahead of its event: two clocks write them.
SKEW = 60.0

#: Maximum seconds for reading the errors topic.
TIME = 2.0

#: Characters of data that are kept.
DATA_SHOWN = 20_000


def causes(settings: Settings, job_id: str, failures: Sequence[FailureRecord]) -> dict[str, ErrorEvent]:
    """Return the error events of a job's failures by task id, as many as are found in time.

    Raises a ServiceError when Kafka does not answer.
    """
    if not failures:
        return {}
    wanted = {failure.task_id for failure in failures}
    found: dict[str, ErrorEvent] = {}
    since = min(failure.failed_at for failure in failures) - SKEW
    deadline = time.monotonic() + TIME
    for message in scan(settings, settings.topic(ERRORS_TOPIC), TIME, since=since):
        # Most are about other jobs: comparing bytes is cheaper than parsing them.
        if message.value and job_id.encode() in message.value:
            event = _read(message.value)
            if event is not None and event.task_id in wanted:
                # Not the first: a task that was redriven and failed again has two.
                found[event.task_id] = event
        if time.monotonic() > deadline:
            break
    return found


def _read(value: bytes) -> ErrorEvent | None:
    """Return the error event in a record, with the task's own data instead of its whole message."""
    event = decode_error_event(value)
    if event is None:
        return None
    data = _data(event.data or "")
    return replace(
        event,
        data=data[:DATA_SHOWN],
        headers=json_safe(event.headers),
        cut=event.cut or len(data) > DATA_SHOWN,
    )


def _data(message: str) -> str:
    payload, header, _ = open_task(message)
    if header is None:
        return message
    try:
        return data_of(payload["body"])
    except InvalidInputError:
        return message
