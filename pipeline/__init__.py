"""All that an author of stages and consumers imports. Worker, bridge and command line are commands.

No name here may be ``app`` or ``celery``: ``celery -A pipeline`` would take it for the Celery
application, which is in ``pipeline/celery.py``.
"""

from pipeline.author.context import CurrentTask, Part, current_task
from pipeline.author.decorator import consumer, stage
from pipeline.author.records import Event, Record
from pipeline.author.stages import Stage
from pipeline.errors import (
    InvalidInputError,
    PermanentError,
    PipelineError,
    ResultTooLargeError,
    Retry,
    StageDefinitionError,
)

__version__ = "0.1.0"

__all__ = [
    "CurrentTask",
    "Event",
    "InvalidInputError",
    "Part",
    "PermanentError",
    "PipelineError",
    "Record",
    "ResultTooLargeError",
    "Retry",
    "Stage",
    "StageDefinitionError",
    "consumer",
    "current_task",
    "stage",
]
