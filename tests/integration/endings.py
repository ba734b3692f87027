"""Tasks that end in each way that Celery documents, and a line for each signal, under the task's id.

Named in TASK_MODULES, loaded by nothing else.
"""

import os
from typing import Any

from celery import Task, shared_task, signals
from celery.exceptions import Ignore, Reject

from tests.integration import workshop

#: The signals of a task's life in a worker; each is sent with a task's id, or its request.
OF_A_RUN = (
    *("task_received", "task_prerun", "task_success", "task_failure", "task_retry", "task_postrun"),
    "task_revoked",
)
#: The signals of a publish, which has the task's id in the headers.
OF_A_PUBLISH = ("before_task_publish", "after_task_publish")


@shared_task(bind=True)  # type: ignore[untyped-decorator]
def plain(self: Task) -> str:
    """Return at once."""
    workshop.write(self.request.id, "start", redelivered=self.request.delivery_info["redelivered"])
    return "done"


@shared_task(bind=True)  # type: ignore[untyped-decorator]
def held(self: Task) -> None:
    """Run until the test lets it go."""
    workshop.write(self.request.id, "start")
    workshop.obey(workshop.Order(key=self.request.id, do="hold"))


@shared_task(bind=True)  # type: ignore[untyped-decorator]
def reject(self: Task, requeue: bool, times: int = 1_000) -> None:
    """Reject the message, so many times."""
    path = f"{os.environ['WORKSHOP_LOG']}.{self.request.id}"
    workshop.write(self.request.id, "start", redelivered=self.request.delivery_info["redelivered"])
    with open(path, "a+b") as runs:
        runs.write(b".")
        if runs.tell() > times:
            return
    raise Reject("not here", requeue=requeue)


@shared_task(bind=True)  # type: ignore[untyped-decorator]
def ignore(self: Task) -> None:
    """End without a result."""
    workshop.write(self.request.id, "start")
    raise Ignore


@shared_task(bind=True)  # type: ignore[untyped-decorator]
def retry_once(self: Task) -> str:
    """Retry, then return."""
    if self.request.retries == 0:
        raise self.retry(countdown=0)
    return "done"


@shared_task  # type: ignore[untyped-decorator]
def fail() -> None:
    """Raise."""
    raise ValueError("it cannot be done")


@shared_task(bind=True)  # type: ignore[untyped-decorator]
def publish(self: Task) -> None:
    """Publish another task, so that signals of a publish are sent in a worker."""
    plain.apply_async(task_id=f"{self.request.id}-next")


def _write(name: str) -> Any:
    def receive(sender: Any = None, **kwargs: Any) -> None:
        if name in OF_A_PUBLISH:
            task_id = kwargs["headers"]["id"]
        else:
            task_id = kwargs.get("task_id") or (kwargs.get("request") or sender.request).id
        shown = {key: value for key, value in kwargs.items() if key in ("terminated", "expired")}
        workshop.write(task_id, name, **shown)

    return receive


for _name in (*OF_A_RUN, *OF_A_PUBLISH):
    getattr(signals, _name).connect(_write(_name), weak=False)
