"""Tasks that another version of the stages must run: back to the queue for a while, then a dead letter."""

import time

from pipeline.settings import Settings
from pipeline.transport.lease import Lease
from pipeline.worker.child.outcome import Failed, Outcome, Returned

#: How often such a task is received within UNKNOWN_TASK_SECONDS: fewer times than any redrive policy that a
#: start accepts, so that it is this worker that says why it is a dead letter.
RECEIVES = 20


def other_version(lease: Lease, settings: Settings, why: str) -> Outcome:
    """Return the outcome of a task that this worker cannot run, because of ``why``.

    The time counts from when it was sent: the deployment of the version that sent it began before.
    """
    if time.time() < lease.message.sent_at + settings.unknown_task_seconds:
        return Returned(delay=settings.unknown_task_seconds / RECEIVES)
    return Failed(
        error="celery.exceptions.NotRegistered",
        message=f"{why}, and no other worker took it within UNKNOWN_TASK_SECONDS="
        f"{settings.unknown_task_seconds:g}: deploy one that has it, then redrive",
        permanent=True,
    )
