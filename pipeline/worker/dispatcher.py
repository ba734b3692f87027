"""Celery's dispatcher of events, which here leaves out tasks whose events are not sent."""

from typing import Any

from celery.app.events import Events as CeleryEvents
from celery.events import EventDispatcher


class Dispatcher(EventDispatcher):  # type: ignore[misc]
    """Sends events. Requests leave out their own; Celery itself sends that a task was received."""

    #: the id of the task whose request Celery has just made, if its events are not sent
    hidden = ""

    def send(self, type: str, *args: Any, **fields: Any) -> Any:
        """Send an event."""
        if type == "task-received" and fields.get("uuid") == self.hidden:
            return None
        return super().send(type, *args, **fields)


class Events(CeleryEvents):  # type: ignore[misc]
    """Celery's ``app.events`` with this dispatcher."""

    dispatcher_cls = f"{__name__}:Dispatcher"
