"""Errbacks (``link_error``): called by a task of their own once their task is a dead letter.

Celery calls them in the child whenever a run fails. Here a failed run is tried again, a run may be killed,
and only settlement knows which one was the last. So it publishes one task, which does what Celery would.
"""

import json
from typing import Any, Final

import structlog
from celery import Celery, current_app
from celery.app.task import Context

from pipeline.errors import PayloadLostError, ServiceUnavailableError
from pipeline.transport import publish_many
from pipeline.wire import identity
from pipeline.wire.references import ReferencedBody
from pipeline.wire.taskmessage import GROUP_HEADER
from pipeline.worker.child.outcome import Failed
from pipeline.worker.settle.work import Work

log = structlog.get_logger(__name__)

#: The Celery name of the task that calls errbacks.
NAME: Final = "pipeline.errbacks"


def register(app: Celery) -> None:
    """Register the task that calls errbacks."""
    app.task(name=NAME, ignore_result=True)(_call)


def publish_errbacks(work: Work) -> None:
    """Publish the task that calls the errbacks of a dead-lettered task, if it has any.

    Published again for the same message it is the same task. Raises ``ServiceUnavailableError``.
    """
    envelope, failure = work.lease.envelope, work.outcome
    errbacks = envelope.embed.get("errbacks") if envelope else None
    if not errbacks or envelope is None or not isinstance(failure, Failed):
        return
    group = envelope.headers.get(GROUP_HEADER)
    signature = current_app.tasks[NAME].signature(
        ({**envelope.headers, "args": envelope.args, "kwargs": envelope.kwargs, "errbacks": errbacks},),
        {
            "error": failure.error,
            "message": failure.message,
            "traceback": failure.traceback,
            **({"body": envelope.body} if envelope.reference else {}),
        },
        task_id=identity.errbacks_task_id(work.task_id, work.lease.message_id),
        queue=work.lease.queue,
        headers=work.trace | ({GROUP_HEADER: group} if group else {}),
    )
    (published,) = publish_many([signature])
    error = published.error
    if isinstance(error, ServiceUnavailableError):
        raise error
    if error is not None:
        # The dead letter is safe: errbacks that can never be published must not bring the task again.
        log.error("errbacks.not_published", task_id=work.task_id, error=str(error))


def _call(request: dict[str, Any], error: str, message: str, traceback: str, body: str | None = None) -> None:
    """Call the errbacks of a task that failed for good, as Celery does.

    ``body``: of a task whose arguments are on S3. They are left out where they are gone.
    """
    if body is not None:
        try:
            kept = current_app.pipeline.payloads.get(ReferencedBody.read(body).reference)
            request["args"], request["kwargs"], _ = json.loads(kept)
        except PayloadLostError as lost:
            log.warning("errbacks.without_arguments", task_id=request.get("id"), error=str(lost))
    module, _, name = error.rpartition(".")
    told = {"exc_type": name, "exc_message": [message], "exc_module": module or "builtins"}
    exception = current_app.backend.exception_to_python(told)
    context = Context(request, is_eager=False, delivery_info={}, called_directly=False)
    current_app.backend.call_errbacks(context, exception, traceback)
