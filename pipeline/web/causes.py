"""Why tasks failed: their events on the errors topic, with the traceback and the data that caused it."""

import time
from collections.abc import Sequence

from pydantic import ValidationError

from config.settings import ERRORS_TOPIC, Settings
from pipeline.errorevents import ErrorEvent
from pipeline.jobs import FailureRecord
from pipeline.kafka import scan

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
    try:
        event = ErrorEvent.model_validate_json(value)
    except ValidationError:
        return None
    if event.data is None or len(event.data) <= DATA_SHOWN:
        return event
    return event.model_copy(update={"data": event.data[:DATA_SHOWN], "cut": True})
