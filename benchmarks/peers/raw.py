"""Raw: boto3 alone, receive and delete ten at a time on four threads. What SQS itself allows.

``python -m benchmarks.peers.raw`` is the process that does it.
"""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import boto3
from botocore.config import Config

from benchmarks.fill import send_all, stage_messages
from benchmarks.ground import Ground
from benchmarks.peer import Ready, on_sqs

name = "raw"

THREADS = 4


def missing() -> str | None:
    """Nothing: boto3 is here."""
    return None


@contextmanager
def ready(ground: Ground, tasks: int) -> Iterator[Ready]:
    """The messages are the same as ours."""
    send_all(ground, stage_messages(tasks))
    yield on_sqs(ground, (sys.executable, "-m", "benchmarks.peers.raw"), ("sqs",))


def _consume(client: Any, url: str) -> None:
    while True:
        answer = client.receive_message(QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=1)
        entries = [
            {"Id": str(number), "ReceiptHandle": message["ReceiptHandle"]}
            for number, message in enumerate(answer.get("Messages", ()))
        ]
        if entries:
            client.delete_message_batch(QueueUrl=url, Entries=entries)


def _main() -> None:
    client = boto3.client("sqs", config=Config(max_pool_connections=THREADS))
    threads = [
        threading.Thread(target=_consume, args=(client, os.environ["SQS_TASK_QUEUE_URL"]), daemon=True)
        for _ in range(THREADS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    _main()
