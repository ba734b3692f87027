"""Raw: boto3 alone, ten at a time on four threads, receive and delete, or send: the most that SQS allows.

``python -m benchmarks.peers.raw receive`` and ``… send COUNT THREADS`` are the processes that do it.
"""

import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import boto3
from botocore.config import Config

from benchmarks.fill import send_all, stage_messages
from benchmarks.ground import Ground
from benchmarks.peer import Ready, on_sqs, queue_depth, worked_off
from pipeline.sqs import OutgoingMessage

name = "raw"

THREADS = 4
BATCH = 10

COMMAND = (sys.executable, "-m", "benchmarks.peers.raw")


def missing() -> str | None:
    """Return None: boto3 is installed."""
    return None


@contextmanager
def working(ground: Ground, tasks: int) -> Iterator[Ready]:
    """Prepare the messages of ours."""
    send_all(ground.queue, stage_messages(tasks))
    yield on_sqs(ground, (*COMMAND, "receive"), ("sqs",), worked_off(ground, tasks))


@contextmanager
def sending(ground: Ground, events: int) -> Iterator[Ready]:
    """Prepare the messages of ours before the first is sent."""
    yield send_ready(ground, events, THREADS)


def send_ready(ground: Ground, events: int, threads: int) -> Ready:
    """Return a peer that sends on this many threads."""
    return on_sqs(ground, (*COMMAND, "send", str(events), str(threads)), ("sqs",), queue_depth(ground))


def _consume(client: Any, url: str) -> None:
    while True:
        answer = client.receive_message(QueueUrl=url, MaxNumberOfMessages=BATCH, WaitTimeSeconds=1)
        entries = [
            {"Id": str(number), "ReceiptHandle": message["ReceiptHandle"]}
            for number, message in enumerate(answer.get("Messages", ()))
        ]
        if entries:
            client.delete_message_batch(QueueUrl=url, Entries=entries)


def _send(client: Any, url: str, messages: Sequence[OutgoingMessage]) -> None:
    for start in range(0, len(messages), BATCH):
        client.send_message_batch(
            QueueUrl=url,
            Entries=[
                {
                    "Id": str(number),
                    "MessageBody": message.body,
                    "MessageGroupId": message.group_id,
                    "MessageDeduplicationId": message.deduplication_id,
                }
                for number, message in enumerate(messages[start : start + BATCH])
            ],
        )


def _main(order: str, count: int = 0, threads: int = THREADS) -> None:
    client = boto3.client("sqs", config=Config(max_pool_connections=threads))
    url = os.environ["SQS_TASK_QUEUE_URL"]
    messages = stage_messages(count)
    work = [
        partial(_consume, client, url)
        if order == "receive"
        else partial(_send, client, url, messages[number::threads])
        for number in range(threads)
    ]
    running = [threading.Thread(target=each, daemon=True) for each in work]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()


if __name__ == "__main__":
    _main(sys.argv[1], *map(int, sys.argv[2:]))
