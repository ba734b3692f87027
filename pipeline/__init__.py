"""All that a stage's author imports. The worker, bridge and command line are started as commands.

No name here may be ``app`` or ``celery``: ``celery -A pipeline`` would take it for the Celery
application, which is in ``pipeline/celery.py``.
"""

from pipeline.author.context import CurrentTask, Part, current_task
from pipeline.author.decorator import stage
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
    "InvalidInputError",
    "Part",
    "PermanentError",
    "PipelineError",
    "ResultTooLargeError",
    "Retry",
    "Stage",
    "StageDefinitionError",
    "current_task",
    "stage",
]
