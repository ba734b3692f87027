"""Why tasks failed: their events on the errors topic, with the traceback and the data that caused it."""

import time
from collections.abc import Sequence

from pydantic import ValidationError

from config.settings import ERRORS_TOPIC, Settings
from pipeline.deadletters.tasks import open_task
from pipeline.errorevents import ErrorEvent
from pipeline.errors import InvalidInputError
from pipeline.jobs import FailureRecord
from pipeline.kafka import scan
from pipeline.taskmessage import data_of
from pipeline.web.shown import shown

#: Seconds that a failure's record may be ahead of its event: they are written on two clocks.
SKEW = 60.0

#: Seconds that the errors topic is read at most.
TIME = 2.0

#: Characters of data that are shown.
DATA_SHOWN = 20_000


def causes(settings: Settings, job_id: str, failures: Sequence[FailureRecord]) -> dict[str, ErrorEvent]:
    """The error events of a job's failures, by task id; those that are found within a moment.

    Raises a ServiceError when Kafka is away.
    """
    if not failures:
        return {}
    wanted = {failure.task_id for failure in failures}
    found: dict[str, ErrorEvent] = {}
    since = min(failure.failed_at for failure in failures) - SKEW
    deadline = time.monotonic() + TIME
    for message in scan(settings, settings.topic(ERRORS_TOPIC), TIME, since=since):
        # Most are about other jobs: they are told by their bytes, which is cheaper than to read them.
        if message.value and job_id.encode() in message.value:
            event = _read(message.value)
            if event is not None and event.task_id in wanted:
                # To the end, though all are found: a task that was redriven and failed again has two.
                found[event.task_id] = event
        if time.monotonic() > deadline:
            break
    return found


def _read(value: bytes) -> ErrorEvent | None:
    """The error event in a record, with the task's own data instead of its whole message."""
    try:
        event = ErrorEvent.model_validate_json(value)
    except ValidationError:
        return None
    data = _data(event.data or "")
    return event.model_copy(
        update={
            "data": data[:DATA_SHOWN],
            "headers": shown(event.headers),
            "cut": event.cut or len(data) > DATA_SHOWN,
        }
    )


def _data(message: str) -> str:
    payload, header, _ = open_task(message)
    if header is None:
        return message
    try:
        return data_of(payload["body"])
    except InvalidInputError:
        return message
