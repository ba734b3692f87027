"""Markers: messages of the sweep, sent behind those of a group to learn when they are gone (ADR 26).

SQS delivers a group in order, and nothing of it while an earlier message is there, waits for a retry or is
held. So a worker that receives a marker knows that all messages sent before it are deleted or moved away.
"""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from pipeline.errors import InvalidInputError
from pipeline.wire.taskmessage import LONGEST_JOB_ID, TaskMessage

#: Celery's name of a marker; no code defines a task of this name.
MARKER: Final = "pipeline.marker"
#: The Celery header that holds the id of the job that the marker is about.
_JOB: Final = "marker_job"
_BODY: Final = '[[],{},{"callbacks":null,"errbacks":null,"chain":null,"chord":null}]'


@dataclass(frozen=True, kw_only=True)
class Marker:
    """A marker of one group, about one job."""

    id: str
    job_id: str

    @classmethod
    def new(cls, job_id: str) -> "Marker":
        """Return a marker with an id that no other has."""
        return cls(id=str(uuid.uuid4()), job_id=job_id)

    @classmethod
    def read(cls, headers: Mapping[str, Any]) -> "Marker":
        """Return the marker in a message's headers; raises ``InvalidInputError``."""
        marker_id, job_id = headers.get("id"), headers.get(_JOB)
        if not isinstance(job_id, str) or not 0 < len(job_id) <= LONGEST_JOB_ID:
            raise InvalidInputError(f"the marker {str(marker_id)[:80]!r} names no job")
        try:
            return cls(id=str(uuid.UUID(str(marker_id))), job_id=job_id)
        except ValueError as error:
            raise InvalidInputError(f"{str(marker_id)[:80]!r} is not the id of a marker") from error

    def message(self, group_id: str, queue: str) -> TaskMessage:
        """Return the message that goes behind those of a group."""
        headers = {
            "lang": "py",
            "task": MARKER,
            "id": self.id,
            "root_id": self.id,
            "parent_id": None,
            "group": None,
            "shadow": None,
            "eta": None,
            "expires": None,
            "retries": 0,
            "timelimit": [None, None],
            "argsrepr": "()",
            "kwargsrepr": "{}",
            "origin": "pipeline",
            "ignore_result": True,
            _JOB: self.job_id,
        }
        return TaskMessage(
            task_id=self.id,
            name=MARKER,
            body=_BODY,
            headers=headers,
            group_id=group_id,
            deduplication_id=self.id,
            queue=queue,
        )
