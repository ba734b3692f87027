"""Dispatch: sends the tasks of stages to their queues, many in a request."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial

from pipeline.author.registry import Registry
from pipeline.jobs import SealedSplit
from pipeline.patience import Patience
from pipeline.settings import Settings
from pipeline.sqs import OutgoingMessage, SqsQueue
from pipeline.transport.bulk import send_many
from pipeline.wire import taskmessage
from pipeline.wire.taskmessage import TaskMessage


class Dispatch:
    """Sends parts and gathers. Waits for SQS during an outage."""

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        queue_named: Callable[[str], SqsQueue],
        patience: Patience,
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._queue_named = queue_named
        self._patience = patience

    def send(self, messages: Sequence[TaskMessage]) -> list[Exception | None]:
        """Send each; answer None, or the error that trying again would not change."""
        queued = [
            (message.queue or self._settings.task_queue, OutgoingMessage(**message.to_sqs()))
            for message in messages
        ]
        return self._patience.each("send tasks", queued, partial(send_many, self._queue_named))

    def send_gathers(self, sealed: Iterable[SealedSplit]) -> list[Exception | None]:
        """Send the gather of each split; answer as for ``send``."""
        return self.send([gather_of(self._registry, split) for split in sealed])


def gather_of(registry: Registry, sealed: SealedSplit) -> TaskMessage:
    """Return the gather's task of a sealed split. The seal holds all of it, so any process can make it."""
    stage = registry.by_name[sealed.split.stage]
    return taskmessage.for_gather(stage, sealed.header, sealed.total, sealed.data, whole=not sealed.tolerate)
