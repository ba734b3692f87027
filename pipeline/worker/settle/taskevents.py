"""A task that ends without a run, as Flower is to see it: Celery made no request that could tell."""

from collections.abc import Callable
from typing import Any

from pipeline.transport.lease import Lease

#: Sends a task event: its type, then its fields. None while the worker has no connection.
SendEvent = Callable[..., Any]


class Unrun:
    """Sends task events for a message that was given up, or was done before, without a run by this worker."""

    def __init__(self, lease: Lease, send: SendEvent | None, *, known: bool = True) -> None:
        self._headers = lease.payload.get("headers", {})
        self._send = send
        #: Whether the code defines the task: one that it does not may have any name.
        self.known = known

    @property
    def name(self) -> str:
        """Celery's name of the task."""
        return str(self._headers.get("task", "unknown"))

    def send_event(self, kind: str, **fields: Any) -> None:
        """Send it with the task's name and arguments: Flower may hear of the task for the first time."""
        if self._send is None or "id" not in self._headers:
            return
        self._send(
            kind,
            uuid=self._headers["id"],
            name=self.name,
            args=self._headers.get("argsrepr"),
            kwargs=self._headers.get("kwargsrepr"),
            root_id=self._headers.get("root_id"),
            parent_id=self._headers.get("parent_id"),
            **fields,
        )
