"""A Celery app that was not converted: it publishes with kombu's own SQS transport."""

from typing import Any
from urllib.parse import urlsplit

from celery import Celery

#: The keys in the emulators' credentials file.
KEY = "local"


def stock_app(queue_url: str, **settings: Any) -> Celery:
    """Return an app whose broker is SQS at that queue, with Celery's own settings otherwise."""
    queue = queue_url.rsplit("/", 1)[1]
    app = Celery("stock", set_as_current=False)
    app.conf.update(
        settings,
        broker_url=f"sqs://{KEY}:{KEY}@{urlsplit(queue_url).netloc}",
        broker_transport_options={
            "region": "us-east-1",
            "is_secure": False,
            "predefined_queues": {queue: {"url": queue_url}},
            **settings.get("broker_transport_options", {}),
        },
        task_default_queue=queue,
    )
    return app
