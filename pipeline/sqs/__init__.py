"""The only door to SQS: batched calls on FIFO queues, in this project's words and errors."""

from pipeline.sqs.client import sqs_client
from pipeline.sqs.messages import MAX_MESSAGE_BYTES, OutgoingMessage, QueueDepth, ReceivedMessage
from pipeline.sqs.queue import SqsQueue

__all__ = [
    "MAX_MESSAGE_BYTES",
    "OutgoingMessage",
    "QueueDepth",
    "ReceivedMessage",
    "SqsQueue",
    "sqs_client",
]
