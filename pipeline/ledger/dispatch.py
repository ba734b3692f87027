"""Dispatch: sends the tasks of stages to their queues, many in a request."""

from collections.abc import Callable, Sequence
from functools import partial

from config.settings import Settings
from pipeline.patience import Patience
from pipeline.sqs import OutgoingMessage, SqsQueue
from pipeline.taskmessage import TaskMessage
from pipeline.transport.bulk import send_many


class Dispatch:
    """Sends parts and gathers. Waits for SQS when it is away."""

    def __init__(
        self, settings: Settings, queue_named: Callable[[str], SqsQueue], patience: Patience
    ) -> None:
        self._settings = settings
        self._queue_named = queue_named
        self._patience = patience

    def send(self, messages: Sequence[TaskMessage]) -> list[Exception | None]:
        """Send each; an answer for each: None, or the error for which it never can be sent."""
        queued = [
            (message.queue or self._settings.task_queue, OutgoingMessage(**message.to_sqs()))
            for message in messages
        ]
        return self._patience.each("send tasks", queued, partial(send_many, self._queue_named))
