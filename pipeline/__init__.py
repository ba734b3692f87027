"""All that authors of stages and consumers, and callers, import. Worker, bridge and the rest are commands.

No name here may be ``app`` or ``celery``: ``celery -A pipeline`` would take it for the Celery
application, which is in ``pipeline/celery.py``.
"""

import importlib
from typing import TYPE_CHECKING, Any

from pipeline.author.context import CurrentTask, Part, current_task
from pipeline.author.decorator import consumer, stage
from pipeline.author.records import Event, Record
from pipeline.author.stages import Stage
from pipeline.author.timing import Tick, cron, every
from pipeline.errors import (
    InvalidEventError,
    InvalidInputError,
    JobCancelledError,
    JobError,
    JobFailedError,
    KeyConflictError,
    PermanentError,
    PipelineError,
    ResultNotKeptError,
    ResultTooLargeError,
    Retry,
    ServiceError,
    StageDefinitionError,
    UnknownJobError,
)

if TYPE_CHECKING:
    from pipeline.client.asyncclient import AsyncClient, AsyncJobHandle
    from pipeline.client.client import Client
    from pipeline.client.handle import JobHandle
    from pipeline.jobs import JobState
    from pipeline.worker.installation import install

__version__ = "0.1.0"

__all__ = [
    "AsyncClient",
    "AsyncJobHandle",
    "Client",
    "CurrentTask",
    "Event",
    "InvalidEventError",
    "InvalidInputError",
    "JobCancelledError",
    "JobError",
    "JobFailedError",
    "JobHandle",
    "JobState",
    "KeyConflictError",
    "Part",
    "PermanentError",
    "PipelineError",
    "Record",
    "ResultNotKeptError",
    "ResultTooLargeError",
    "Retry",
    "ServiceError",
    "Stage",
    "StageDefinitionError",
    "Tick",
    "UnknownJobError",
    "consumer",
    "cron",
    "current_task",
    "every",
    "install",
    "stage",
]

#: Names of callers and apps, by module: loaded at first use, because stages do without Celery and without the
#: clients of Kafka and AWS.
_LOADED_LATER = {
    "AsyncClient": "pipeline.client.asyncclient",
    "AsyncJobHandle": "pipeline.client.asyncclient",
    "Client": "pipeline.client.client",
    "JobHandle": "pipeline.client.handle",
    "JobState": "pipeline.jobs",
    "install": "pipeline.worker.installation",
}


def __getattr__(name: str) -> Any:
    module = _LOADED_LATER.get(name)
    if module is None:
        raise AttributeError(f"module 'pipeline' has no attribute {name!r}")
    return getattr(importlib.import_module(module), name)
