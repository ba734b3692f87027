"""Bulk publish: many tasks in few requests, with an answer for each."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from pipeline.errors import ServiceError, ServiceUnavailableError
from pipeline.patience import raise_first
from pipeline.sqs import SqsQueue
from pipeline.transport import kombutransport
from pipeline.transport.publishing import Queued, gathering

#: Pauses before messages that SQS did not take are sent again (seconds): Celery's defaults for one publish
#: (``task_publish_retry_policy``).
PAUSES = (0.0, 0.2, 0.4)


@dataclass(frozen=True, kw_only=True)
class Published:
    """The answer for one signature."""

    #: The id of the result that ``apply_async`` would return: the task's; for a chain, its last task's.
    task_id: str
    #: Why it is not, or not wholly, on its queue; None if it is.
    error: ServiceError | None


def publish_many(signatures: Iterable[Any]) -> list[Published]:
    """Publish Celery signatures as ``apply_async`` does, ten in a request; return an answer for each.

    Ids, message groups, options and routes are those of ``apply_async``. Messages of one group go in the
    order of ``signatures``; behind one that failed none of its group is sent, and each says so. One that
    failed may be published again under its id, ``signature.set(task_id=...)``: within 5 minutes SQS drops
    what it has already.

    All are made before the first is sent: what ``apply_async`` raises for one of them (arguments that do not
    fit the task, or are not JSON) is raised with nothing sent. They are in memory together, so give a long
    list in pieces.
    """
    task_ids, ends = [], []
    with gathering() as queued:
        for signature in signatures:
            task_ids.append(signature.apply_async().id)
            ends.append(len(queued))
    errors = _send_patiently(queued)
    return [
        Published(task_id=task_id, error=next((error for error in errors[start:end] if error), None))
        for task_id, (start, end) in zip(task_ids, pairwise([0, *ends]), strict=True)
    ]


def publish_all(publish: Callable[[], object], *, origin: str = "") -> None:
    """Send together what ``publish`` publishes, ten in a request; raise the first error.

    Nothing is sent if it raises. Repeat all of it after an error, under the same ids and from the same
    ``origin``: within 5 minutes SQS drops what it has already.
    """
    with gathering(origin) as queued:
        publish()
    raise_first(_send_patiently(queued))


def send_many(queue_named: Callable[[str], SqsQueue], queued: Sequence[Queued]) -> list[ServiceError | None]:
    """Send each message to its queue, as many in a request as fit; return an answer for each.

    SQS may fail one entry of a request and take the next, so a group's go in one request each, in order.
    """
    errors: list[ServiceError | None] = [None] * len(queued)
    for name in dict.fromkeys(name for name, _ in queued):
        positions = [at for at, (queue, _) in enumerate(queued) if queue == name]
        answers = queue_named(name).send([queued[at][1] for at in positions], one_per_group=True)
        for at, error in zip(positions, answers, strict=True):
            errors[at] = error
    return errors


def _send_patiently(queued: Sequence[Queued]) -> list[ServiceError | None]:
    errors = send_many(kombutransport.Transport.queue, queued)
    for pause in PAUSES:
        left = _worth_trying_again(queued, errors)
        if not left:
            break
        time.sleep(pause)
        answers = send_many(kombutransport.Transport.queue, [queued[at] for at in left])
        for at, error in zip(left, answers, strict=True):
            errors[at] = error
    return errors


def _worth_trying_again(queued: Sequence[Queued], errors: Sequence[ServiceError | None]) -> list[int]:
    """Return the positions to send again: not taken because SQS was away, and not behind a refused one."""
    refused: set[tuple[str, str]] = set()
    left = []
    for at, ((queue, message), error) in enumerate(zip(queued, errors, strict=True)):
        group = queue, message.group_id
        if isinstance(error, ServiceUnavailableError) and group not in refused:
            left.append(at)
        elif error is not None:
            refused.add(group)
    return left
