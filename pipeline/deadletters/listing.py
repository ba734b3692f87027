"""A look at the dead letters of a service, on the SQS queue and on the Kafka topic, as one.

What the errors topic tells of tasks is looked at only when it is asked for: most of it was mended long ago.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from itertools import islice
from types import TracebackType
from typing import Self

from config.settings import DLQ_TOPIC, ERRORS_TOPIC, Settings
from pipeline.deadletters.events import is_letter_id, letter_id, marked, read_event
from pipeline.deadletters.filters import Filter
from pipeline.deadletters.letter import DeadLetter, Place
from pipeline.deadletters.tasks import read_task
from pipeline.deadletters.told import is_told_id, newest_of_each, read_told
from pipeline.deadletters.walk import Walk
from pipeline.kafka import Message, scan
from pipeline.sqs import SqsQueue, sqs_client

#: Letters of a topic handed out at a time.
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
        """The dead letters that are wanted, some at a time: those of the queue, then those of a topic.

        It ends where each that is wanted by its own id was met; one task's id may be that of several.
        """
        missing = set(self._wanted.ids)
        for batch in self._every_batch():
            yield batch
            missing -= {letter.id for letter in batch}
            if self._wanted.ids and not missing:
                return

    def _every_batch(self) -> Iterator[list[DeadLetter]]:
        if self._may_be("sqs"):
            for messages in self.walk.batches():
                yield self._filtered([read_task(self._settings, message) for message in messages])
        if self._may_be("kafka"):
            yield from _chunks(self._events())
        if self._may_be("errors"):
            yield from _chunks(self._told())

    def letters(self) -> Iterator[DeadLetter]:
        """The same, one by one."""
        for batch in self.batches():
            yield from batch

    def unseen(self) -> int:
        """About how many letters of the queue it could not see, once all was gone through."""
        return self.walk.unseen() if self._may_be("sqs") and self.walk.complete else 0

    def _events(self) -> Iterator[DeadLetter]:
        """Those of the topic that were not handled. It is read twice: a mark comes after what it is about."""
        topic = self._settings.topic(DLQ_TOPIC)
        handled = {name for message in self._scan(topic) if (name := marked(message))}
        for message in self._scan(topic):
            if not marked(message) and letter_id(message.partition, message.offset) not in handled:
                yield from self._filtered([read_event(message, self._settings.service_name)])

    def _told(self) -> Iterator[DeadLetter]:
        """What the errors topic tells last of each task."""
        topic, service = self._settings.topic(ERRORS_TOPIC), self._settings.service_name
        newest = newest_of_each(service, self._scan(topic))
        for message in self._scan(topic):
            letter = read_told(service, message)
            if letter is not None and letter.id in newest:
                yield from self._filtered([letter])

    def _scan(self, topic: str) -> Iterator[Message]:
        """A topic's records; it may have millions, and what the queue showed before stays held meanwhile."""
        for message in scan(self._settings, topic):
            self.walk.extend()
            yield message

    def _may_be(self, place: Place) -> bool:
        """Whether what is wanted can be there: one side that is away must not keep the others from view."""
        wanted, ids = self._wanted.place, self._wanted.ids
        if wanted is not None:
            return wanted == place
        if ids:
            return any(_place_of(each) == place for each in ids)
        return place != "errors"

    def _filtered(self, letters: list[DeadLetter]) -> list[DeadLetter]:
        return [letter for letter in letters if self._wanted(letter)]


def _place_of(name: str) -> Place:
    """Where the letter of that name is; the id of a task is looked for on the queue."""
    return "kafka" if is_letter_id(name) else "errors" if is_told_id(name) else "sqs"


def _chunks(letters: Iterator[DeadLetter]) -> Iterator[list[DeadLetter]]:
    while chunk := list(islice(letters, CHUNK)):
        yield chunk
