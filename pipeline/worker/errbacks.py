"""Errbacks (``link_error``): called when their task is given up on, by a task of their own.

Celery calls them in the child whenever a run fails. Here a failed run is tried again, a run may be killed,
and only settlement knows which one was the last. So it publishes one task, which does what Celery would.
"""

from typing import Any, Final

import structlog
from celery import Celery, current_app
from celery.app.task import Context
from celery.backends.base import DisabledBackend
from celery.utils.serialization import create_exception_cls

from pipeline import identity
from pipeline.errors import ServiceUnavailableError
from pipeline.transport import publish_many
from pipeline.transport.envelope import PARSED
from pipeline.transport.fifo import GROUP_HEADER
from pipeline.worker.outcome import Failed
from pipeline.worker.work import Work

log = structlog.get_logger(__name__)

#: The Celery name of the task that calls errbacks.
NAME: Final = "pipeline.errbacks"


class Backend(DisabledBackend):  # type: ignore[misc]
    """Celery's own for no results, without the errbacks of a run that failed."""

    def _call_task_errbacks(self, request: Any, exc: Any, traceback: Any) -> None:
        """Nothing: the run may not have been the last."""

    def call_errbacks(self, request: Context, error: Exception, traceback: str) -> None:
        """Publish those that take a task's id; call those that take request, exception and traceback."""
        super()._call_task_errbacks(request, error, traceback)


def register(app: Celery) -> None:
    """Make the task that calls errbacks known to ``app``."""
    app.task(name=NAME)(_call)


def publish_errbacks(work: Work) -> None:
    """Publish the task that calls the errbacks of a task that was given up on; nothing where it has none.

    Published again for the same message it is the same task. Raises ``ServiceUnavailableError``.
    """
    args, kwargs, embed = work.lease.payload.get(PARSED) or ([], {}, None)
    errbacks = (embed or {}).get("errbacks")
    if not errbacks or not isinstance(work.outcome, Failed):
        return
    failure, headers = work.outcome, work.lease.payload["headers"]
    group = headers.get(GROUP_HEADER)
    signature = current_app.tasks[NAME].signature(
        ({**headers, "args": args, "kwargs": kwargs, "errbacks": errbacks},),
        {"error": failure.error, "message": failure.message, "traceback": failure.traceback},
        task_id=identity.errbacks_task_id(work.task_id, work.lease.message_id),
        queue=work.lease.queue,
        headers=work.trace | ({GROUP_HEADER: group} if group else {}),
    )
    (published,) = publish_many([signature])
    error = published.error
    if isinstance(error, ServiceUnavailableError):
        raise error
    if error is not None:
        # The dead letter is there; what can never be published must not bring it again.
        log.error("errbacks.not_published", task_id=work.task_id, error=str(error))


def _call(request: dict[str, Any], error: str, message: str, traceback: str) -> None:
    """Call the errbacks of a task that failed for good, as Celery does."""
    module, _, name = error.rpartition(".")
    exception = create_exception_cls(name, module)(message)
    context = Context(request, is_eager=False, delivery_info={}, called_directly=False)
    current_app.backend.call_errbacks(context, exception, traceback)
