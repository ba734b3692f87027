"""SQS: batched calls on FIFO queues. The only package that imports its SDK."""

from pipeline.sqs.client import credentials_source, sqs_client
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
