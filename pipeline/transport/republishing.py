"""Publishes under one task id: those that are meant twice are told apart from those that are repeated.

SQS drops a second message with the deduplication id of another within 5 minutes, and a plain task's is made
from its id. So a canvas that a client applies twice under its ids, as after ``freeze``, would run once, where
Celery runs it twice. But a run that is repeated after a crash publishes what follows it once more, under the
same ids, and that must stay one message.

So each publish of a client has a deduplication id of its own, which travels in the message. It is the origin
of what the task publishes, and so on: the same for each delivery of one message.
"""

from collections import Counter
from typing import Any
from uuid import uuid4
from weakref import WeakKeyDictionary

from celery import current_task
from celery.app.task import Context
from celery.signals import before_task_publish

from pipeline.transport.publishing import gathered_from, is_gathering
from pipeline.transport.stockmessage import DEDUPLICATION_PROPERTY
from pipeline.wire import identity

#: By the request of a task that runs: how often it published each task id.
_published: WeakKeyDictionary[Context, Counter[str]] = WeakKeyDictionary()


def origin() -> str:
    """Return what tells publishes of this context from those of another, under the same task ids.

    The same again where a crash makes them be repeated; "" where only the ids count.
    """
    if is_gathering():
        return gathered_from()
    if current_task:
        return str((current_task.request.properties or {}).get(DEDUPLICATION_PROPERTY) or "")
    return uuid4().hex


@before_task_publish.connect  # type: ignore[untyped-decorator]
def tell_apart(
    headers: dict[str, Any] | None = None, properties: dict[str, Any] | None = None, **_: Any
) -> None:
    """Give a task's message a deduplication id by its origin, and by how often it was published there.

    Celery repeats a publish that failed with the same properties.
    """
    if headers is None or properties is None:
        return
    task_id, number = str(headers.get("id")), 1
    if current_task and not is_gathering():
        counts = _published.setdefault(current_task.request, Counter())
        counts[task_id] = number = counts[task_id] + 1
    came_from = origin()
    if came_from or number > 1:
        own = identity.publish_deduplication_id(
            f"{task_id}#{number}#{came_from}",
            headers.get("retries") or 0,
            headers.get("replaced_task_nesting") or 0,
            headers.get("eta"),
            headers.get("redrives") or 0,
        )
        properties.setdefault(DEDUPLICATION_PROPERTY, own)
