"""Celery task events of messages that end without a run, for which Celery makes no request."""

from collections.abc import Callable
from typing import Any

from pipeline.transport.lease import Lease
from pipeline.worker.sample import Sample, sample_key
from pipeline.worker.taskcounts import FAILURES, TaskCounts

#: Sends a task event: its type, then its fields. None while the worker has no connection.
SendEvent = Callable[..., Any]


class EventSender:
    """Sends the task events of a message that is a dead letter, or was done before, without a run here."""

    def __init__(
        self,
        lease: Lease,
        send: SendEvent | None,
        sample: Sample,
        counts: TaskCounts,
        *,
        known: bool = True,
    ) -> None:
        self._lease = lease
        self._send = send
        self._sample = sample
        self._counts = counts
        #: whether the code defines the task: the name of another is no label of a metric
        self.known = known

    @property
    def name(self) -> str:
        """Celery's name of the task."""
        return self._lease.envelope.task_name if self._lease.envelope else "unknown"

    def send_event(self, kind: str, **fields: Any) -> None:
        """Send an event with the task's name and arguments: Flower may not know the task yet.

        Of a job that is not in the sample only failures are sent.
        """
        if self._lease.envelope is None:
            return
        if self.known:
            self._counts.take(kind, self.name, has_run="runtime" in fields)
        headers = self._lease.headers
        # A task that failed before was sent then, so its end is, too.
        is_shown = (
            kind in FAILURES
            or self._lease.attempts
            or self._sample.weight(sample_key(headers, self._lease.header))
        )
        if self._send is None or not is_shown:
            return
        self._send(
            kind,
            uuid=self._lease.task_id,
            name=self.name,
            args=headers.get("argsrepr"),
            kwargs=headers.get("kwargsrepr"),
            root_id=headers.get("root_id"),
            parent_id=headers.get("parent_id"),
            **fields,
        )
