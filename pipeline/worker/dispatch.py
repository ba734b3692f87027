"""Dispatch: sends the tasks of stages to their queues, many in a request."""

from collections.abc import Callable, Sequence
from functools import partial

from config.settings import Settings
from pipeline.patience import Patience
from pipeline.sqs import OutgoingMessage, SqsQueue
from pipeline.taskmessage import TaskMessage


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
        errors: list[Exception | None] = [None] * len(messages)
        together: dict[tuple[str, bool], list[int]] = {}
        for at, message in enumerate(messages):
            queue = message.queue or self._settings.task_queue
            together.setdefault((queue, message.ordered), []).append(at)
        for (name, ordered), positions in together.items():
            # SQS may fail one entry of a request and take the next: a group's go in one request each.
            send = partial(self._queue_named(name).send, one_per_group=ordered)
            outgoing = [OutgoingMessage(**messages[at].to_sqs()) for at in positions]
            for at, error in zip(positions, self._patience.each("send tasks", outgoing, send), strict=True):
                errors[at] = error
        return errors
