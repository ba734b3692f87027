"""A look at the dead letters of a service, on the SQS queue and on the Kafka topic, as one."""

from collections.abc import Iterator
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from config.settings import DLQ_TOPIC, Settings
from pipeline.deadletters.events import is_letter_id, letter_id, marked, read_event
from pipeline.deadletters.filters import Filter
from pipeline.deadletters.letter import DeadLetter
from pipeline.deadletters.tasks import read_task
from pipeline.deadletters.walk import Walk
from pipeline.kafka import scan
from pipeline.sqs import SqsQueue, sqs_client

#: Letters of the Kafka topic handed out at a time.
CHUNK = 100


class Look:
    """Shows dead letters. Use it in a ``with`` block: at its end those of the queue are back there."""

    def __init__(self, settings: Settings, wanted: Filter) -> None:
        self._settings = settings
        self._wanted = wanted
        self._stack = ExitStack()
        self.queue = SqsQueue(sqs_client(settings), settings.sqs_dlq_url)
        self.walk = Walk(self.queue)

    def __enter__(self) -> Self:
        self._stack.enter_context(self.walk)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def batches(self) -> Iterator[list[DeadLetter]]:
        """The dead letters that are wanted, some at a time: those of the queue, then those of the topic."""
        if self._may_be("sqs"):
            for messages in self.walk.batches():
                yield self._filtered([read_task(self._settings, message) for message in messages])
        if self._may_be("kafka"):
            yield from self._events()

    def letters(self) -> Iterator[DeadLetter]:
        """The same, one by one."""
        for batch in self.batches():
            yield from batch

    def unseen(self) -> int:
        """About how many letters of the queue it could not see, once all was gone through."""
        return self.walk.unseen() if self._may_be("sqs") and self.walk.complete else 0

    def _events(self) -> Iterator[list[DeadLetter]]:
        """Those of the topic that were not handled. It is read twice: a mark comes after what it is about."""
        topic = self._settings.topic(DLQ_TOPIC)
        handled = {name for message in scan(self._settings, topic) if (name := marked(message))}
        chunk: list[DeadLetter] = []
        for message in scan(self._settings, topic):
            if marked(message) or letter_id(message.partition, message.offset) in handled:
                continue
            chunk += self._filtered([read_event(message)])
            if len(chunk) == CHUNK:
                yield chunk
                chunk = []
        yield chunk

    def _may_be(self, place: str) -> bool:
        """Whether what is wanted can be there: one side that is away must not keep the other from view."""
        if self._wanted.place not in (None, place):
            return False
        ids = self._wanted.ids
        return not ids or any(is_letter_id(each) == (place == "kafka") for each in ids)

    def _filtered(self, letters: list[DeadLetter]) -> list[DeadLetter]:
        return [letter for letter in letters if self._wanted(letter)]
