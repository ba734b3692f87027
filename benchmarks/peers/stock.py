"""Stock: Celery with kombu's SQS transport on the same FIFO queue. It runs and deletes, and no more.

``python -m benchmarks.peers.stock COUNT`` publishes, one task after the other.

Acknowledging late, as ours does: by default Celery deletes a task before it runs. The queue is predefined,
which spares it the calls that look for it.
"""

import base64
import importlib.util
import json
import os
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from celery import Celery

from benchmarks.fill import send_all
from benchmarks.ground import Ground
from benchmarks.peer import Ready, arrived, on_sqs, worked_off
from pipeline.sqs import OutgoingMessage

name = "stock"

#: The keys in the emulators' credentials file.
KEY = "local"

WORKER = (
    *(sys.executable, "-m", "celery", "-A", "benchmarks.peers.stock", "worker"),
    *("-c", "2", "-E", "--loglevel", "INFO"),
)


def missing() -> str | None:
    """What it needs that is not installed."""
    return None if importlib.util.find_spec("pycurl") else "kombu's SQS transport needs pip install pycurl"


@contextmanager
def working(ground: Ground, tasks: int) -> Iterator[Ready]:
    """The messages are as ``apply_async`` writes them, each in a group of its own."""
    send_all(ground, [_message(ground.settings.task_queue, number) for number in range(tasks)])
    yield on_sqs(ground, WORKER, ("sqs",), worked_off(ground, tasks))


@contextmanager
def sending(ground: Ground, events: int) -> Iterator[Ready]:
    """``apply_async`` in a loop, each task in a group of its own."""
    command = (sys.executable, "-m", "benchmarks.peers.stock", str(events))
    yield on_sqs(ground, command, ("sqs",), arrived(ground))


def _message(queue: str, number: int) -> OutgoingMessage:
    task_id = str(uuid.uuid4())
    embed = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
    headers = {
        "lang": "py",
        "task": "double",
        "id": task_id,
        "root_id": task_id,
        "parent_id": None,
        "group": None,
        "shadow": None,
        "eta": None,
        "expires": None,
        "retries": 0,
        "timelimit": [None, None],
        "argsrepr": f"({number},)",
        "kwargsrepr": "{}",
        "origin": "benchmark",
        "ignore_result": True,
    }
    message = {
        "body": _base64(json.dumps([[number], {}, embed])),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": headers,
        "properties": {
            "correlation_id": task_id,
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": queue},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": str(uuid.uuid4()),
        },
    }
    return OutgoingMessage(body=_base64(json.dumps(message)), group_id=task_id, deduplication_id=task_id)


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


# ─── The app that the worker finds ───


def _configuration() -> dict[str, Any]:
    url = os.environ["SQS_TASK_QUEUE_URL"]
    queue = url.rsplit("/", 1)[1]
    return {
        "broker_url": f"sqs://{KEY}:{KEY}@{urlsplit(url).netloc}",
        "broker_transport_options": {
            "region": os.environ["AWS_DEFAULT_REGION"],
            "is_secure": False,
            # At its default of 1 s the worker asks for messages once a second whenever its prefetch is full:
            # 8 tasks/s with two children.
            "polling_interval": 0,
            "wait_time_seconds": int(os.environ["SQS_WAIT_TIME_SECONDS"]),
            "predefined_queues": {queue: {"url": url}},
        },
        "broker_connection_retry_on_startup": True,
        "task_default_queue": queue,
        "task_acks_late": True,
        # Without a limit, which is the fastest: it then asks while its children run.
        "worker_prefetch_multiplier": 0,
        "task_ignore_result": True,
        "worker_enable_remote_control": False,
    }


app = Celery("stock")
app.add_defaults(_configuration)


@app.task(name="double")  # type: ignore[untyped-decorator]
def double(number: int) -> int:
    """What ours runs too."""
    return 2 * number


def _send(count: int) -> None:
    for number in range(count):
        group = str(uuid.uuid4())
        double.apply_async((number,), MessageGroupId=group, MessageDeduplicationId=group)


if __name__ == "__main__":
    _send(int(sys.argv[1]))
