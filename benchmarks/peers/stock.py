"""Stock: Celery with kombu's SQS transport on the same FIFO queue. It only runs and deletes.

``python -m benchmarks.peers.stock COUNT`` publishes, one task after the other.

Acknowledging late, as ours does: by default Celery deletes a task before it runs. The queue is predefined,
which spares it the calls that look for it.
"""

import importlib.util
import json
import os
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from celery import Celery, Task

from benchmarks.fill import send_all
from benchmarks.ground import Ground
from benchmarks.peer import Ready, on_sqs, queue_depth, worked_off
from benchmarks.peers import canvas
from pipeline.sqs import OutgoingMessage

name = "stock"

#: The variable that tells the worker where results are, if it keeps any.
RESULTS_URL = "BENCHMARK_RESULTS_URL"

#: The keys in the emulators' credentials file.
KEY = "local"

WORKER = (
    *(sys.executable, "-m", "celery", "-A", "benchmarks.peers.stock", "worker"),
    *("-c", "2", "-E", "--loglevel", "INFO"),
)


def missing() -> str | None:
    """Return the missing requirement."""
    return None if importlib.util.find_spec("pycurl") else "kombu's SQS transport needs pip install pycurl"


@contextmanager
def working(ground: Ground, tasks: int) -> Iterator[Ready]:
    """Prepare messages as ``apply_async`` writes them, each in a group of its own."""
    queue = ground.settings.task_queue
    send_all(ground.queue, [outgoing(canvas.message(queue, ["double"], number)) for number in range(tasks)])
    yield on_sqs(ground, WORKER, ("sqs",), worked_off(ground, tasks))


@contextmanager
def sending(ground: Ground, events: int) -> Iterator[Ready]:
    """Call ``apply_async`` in a loop, each task in a group of its own."""
    command = (sys.executable, "-m", "benchmarks.peers.stock", str(events))
    yield on_sqs(ground, command, ("sqs",), queue_depth(ground))


def outgoing(message: Mapping[str, Any]) -> OutgoingMessage:
    """Return a Celery message as kombu sends it to SQS, in a group of its own."""
    task_id = message["headers"]["id"]
    return OutgoingMessage(
        body=canvas.base64_of(json.dumps(message)), group_id=task_id, deduplication_id=task_id
    )


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
        "result_backend": os.environ.get(RESULTS_URL),
        "worker_enable_remote_control": False,
    }


class GroupedTask(Task):  # type: ignore[misc]
    """A task that another task sends in a group of its own."""

    def apply_async(
        self, args: Any = None, kwargs: Any = None, task_id: str | None = None, **options: Any
    ) -> Any:
        """Send it; a group that is given counts."""
        task_id = task_id or str(uuid.uuid4())
        options.setdefault("MessageGroupId", task_id)
        return super().apply_async(args, kwargs, task_id, **options)


app = Celery("stock", task_cls=GroupedTask, set_as_current=False)
app.add_defaults(_configuration)
canvas.add_tasks(app)


@app.task(name="double", shared=False)  # type: ignore[untyped-decorator]
def double(number: int) -> int:
    """The function that our peer runs, too."""
    return 2 * number


def _send(count: int) -> None:
    for number in range(count):
        group = str(uuid.uuid4())
        double.apply_async((number,), MessageGroupId=group, MessageDeduplicationId=group)


if __name__ == "__main__":
    _send(int(sys.argv[1]))
