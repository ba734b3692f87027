"""The app of this project without task events: ``celery -A benchmarks.eventless worker``."""

from pipeline.celery import app

app.conf.worker_send_task_events = False
