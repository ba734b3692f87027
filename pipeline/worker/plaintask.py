"""A plain Celery task (``@app.task``, ``@shared_task``): Celery's own, settled like every other."""

from celery import Task


class PlainTask(Task):  # type: ignore[misc]
    """The base of every task of the app."""

    abstract = True
    Request = "pipeline.worker.request:Request"
