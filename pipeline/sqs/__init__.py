"""The only door to SQS: batched calls on FIFO queues, in this project's words and errors."""

from pipeline.sqs.client import sqs_client
from pipeline.sqs.credentials import credentials_source
from pipeline.sqs.messages import (
    MAX_MESSAGE_BYTES,
    QUEUE_RETENTION,
    OutgoingMessage,
    QueueDepth,
    ReceivedMessage,
)
from pipeline.sqs.queue import SqsQueue

__all__ = [
    "MAX_MESSAGE_BYTES",
    "QUEUE_RETENTION",
    "OutgoingMessage",
    "QueueDepth",
    "ReceivedMessage",
    "SqsQueue",
    "credentials_source",
    "sqs_client",
]
