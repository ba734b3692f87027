"""Which tasks keep their results: as the message says, else as the task or the app does."""

from celery import current_app

from pipeline.transport.lease import Lease


def keeps_result(lease: Lease, *, failed: bool = False) -> bool:
    """Whether the result of a message's plain task is kept; ``failed``: of one that failed."""
    if lease.envelope is None or lease.header is not None:
        return False
    ignores = lease.envelope.headers.get("ignore_result")
    if ignores is False or (ignores and not failed):
        return not ignores
    task = current_app.tasks.get(lease.envelope.task_name)
    if ignores is None:
        ignores = current_app.conf.task_ignore_result if task is None else task.ignore_result
    return not ignores or (failed and task is not None and bool(task.store_errors_even_if_ignored))
