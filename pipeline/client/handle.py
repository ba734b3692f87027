"""The handle of a job: its id, state and result."""

import time
from typing import Any

from pipeline.author.stages import Stage
from pipeline.client.jobaccess import JobAccess
from pipeline.client.waiting import pauses, seconds_left
from pipeline.jobs import Job, JobState


class JobHandle:
    """A job: its id, state and result. Small; keep the id, and make another with ``Client.handle``."""

    def __init__(self, access: JobAccess, *, existed: bool = False) -> None:
        #: how it is read
        self.access = access
        #: the job's id
        self.id = access.job_id
        #: whether the job was submitted before, under the same key
        self.existed = existed

    def __repr__(self) -> str:
        return f"<job {self.id}>"

    def status(self) -> JobState:
        """Return the job's state; raise ``UnknownJobError`` for a job without a record."""
        return self.access.read().state

    def wait(self, timeout: float | None = None) -> JobState:
        """Wait until the job has ended, and return its state: complete, failed or cancelled.

        Raise ``TimeoutError`` after ``timeout`` seconds (None: never), and what ``status`` raises.
        """
        return self._ended(timeout).state

    def result(self, timeout: float | None = None, *, stage: str | Stage[Any, Any] | None = None) -> Any:
        """Wait as ``wait`` does; return what the job's last stage returned. None if it returned nothing.

        ``stage``: which of several last stages; one that is given as a function decodes the result, which
        otherwise is JSON's lists, dicts, texts and numbers.

        Raise ``JobFailedError``, ``JobCancelledError``, or ``ResultNotKeptError`` for a result that is too
        large for the job's record, or one of several.
        """
        return self.access.result(self._ended(timeout), stage)

    def cancel(self) -> bool:
        """Cancel the job for good if it runs; return whether it is cancelled. Tasks that run go on."""
        return self.access.cancel()

    def _ended(self, timeout: float | None) -> Job:
        end = None if timeout is None else time.monotonic() + timeout
        waits = pauses()
        while (job := self.access.read()).state is JobState.RUNNING:
            time.sleep(seconds_left(self.id, next(waits), end))
        return job
