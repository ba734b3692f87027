"""Listing of a service's dead letters: the SQS queue and the Kafka topic, as one.

The errors topic is read only when it is asked for: most of its failures were repaired long ago.
"""

import re
from collections.abc import Container, Iterator, Mapping
from contextlib import ExitStack
from itertools import islice
from types import TracebackType
from typing import Self

from pipeline.deadletters.letter import DeadLetter, Filter, Place, letter_id, place_of
from pipeline.deadletters.queuescan import QueueScan
from pipeline.deadletters.reading import newest_errors, read_error, read_event, read_task
from pipeline.kafka import ReceivedRecord, scan
from pipeline.settings import DLQ_TOPIC, ERRORS_TOPIC, Settings
from pipeline.sqs import SqsQueue, sqs_client
from pipeline.wire.deadletter import decode_mark

#: Letters of a topic in one batch.
CHUNK = 100


class Listing:
    """Lists dead letters. Use it in a ``with`` block: at its end the messages go back to the queue."""

    def __init__(self, settings: Settings, wanted: Filter) -> None:
        self._settings = settings
        self._wanted = wanted
        self._stack = ExitStack()
        self.queue = SqsQueue(sqs_client(settings), settings.sqs_dlq_url)
        self.scan = QueueScan(self.queue)

    def __enter__(self) -> Self:
        self._stack.enter_context(self.scan)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def batches(self) -> Iterator[list[DeadLetter]]:
        """Yield the selected dead letters in batches: those of the queue, then those of a topic.

        It ends once each letter that is selected by its own id was found; a task's id may name several.
        """
        missing = set(self._wanted.ids)
        for batch in self._all_batches():
            yield batch
            missing -= {letter.id for letter in batch}
            if self._wanted.ids and not missing:
                return

    def _all_batches(self) -> Iterator[list[DeadLetter]]:
        if self._includes("sqs"):
            for messages in self.scan.batches():
                yield self._filter([read_task(self._settings, message) for message in messages])
        if self._includes("kafka"):
            yield from _chunks(self._events())
        if self._includes("errors"):
            yield from _chunks(self._errors())

    def letters(self) -> Iterator[DeadLetter]:
        """Yield the selected dead letters one by one."""
        for batch in self.batches():
            yield from batch

    def unseen(self) -> int:
        """Return about how many letters of the queue were not visible, after all others were listed."""
        return self.scan.unseen() if self._includes("sqs") and self.scan.complete else 0

    def _events(self) -> Iterator[DeadLetter]:
        """Yield unhandled events. The topic is read twice: a mark follows the record that it is about."""
        topic = self._settings.topic(DLQ_TOPIC)
        handled = {name for record in self._records(topic) if (name := _mark_of(record))}
        for record in self._records(topic):
            name = letter_id("kafka", record.partition, record.offset)
            if not _mark_of(record) and name not in handled:
                yield from self._filter([read_event(self._settings, record)])

    def jobs_with_events(self, job_ids: Container[str]) -> set[str]:
        """Return those of the jobs that have an unhandled event on the DLQ topic, which is read once.

        Held are their own events, and marks that are read before what they mark: none in a topic of one
        partition.
        """
        found: dict[str, str] = {}
        early: set[str] = set()
        read_to: dict[int, int] = {}
        for record in self._records(self._settings.topic(DLQ_TOPIC)):
            read_to[record.partition] = record.offset
            name = letter_id("kafka", record.partition, record.offset)
            if mark := _mark_of(record):
                if found.pop(mark, None) is None and not _is_read(mark, read_to):
                    early.add(mark)
            elif name in early:
                early.remove(name)
            elif (job_id := read_event(self._settings, record).job_id) is not None and job_id in job_ids:
                found[name] = job_id
        return set(found.values())

    def _errors(self) -> Iterator[DeadLetter]:
        """Yield the last failure of each task on the errors topic."""
        topic, service = self._settings.topic(ERRORS_TOPIC), self._settings.service_name
        newest = newest_errors(service, self._records(topic))
        for record in self._records(topic):
            letter = read_error(service, record)
            if letter is not None and letter.id in newest:
                yield from self._filter([letter])

    def _records(self, topic: str) -> Iterator[ReceivedRecord]:
        """Yield a topic's records, maybe millions; the messages of the queue stay held meanwhile."""
        for record in scan(self._settings, topic):
            self.scan.extend()
            yield record

    def _includes(self, place: Place) -> bool:
        """Whether a selected letter can be there: an outage of one service must not hide the others."""
        wanted, ids = self._wanted.place, self._wanted.ids
        if wanted is not None:
            return wanted == place
        if ids:
            return any(place_of(each) == place for each in ids)
        return place != "errors"

    def _filter(self, letters: list[DeadLetter]) -> list[DeadLetter]:
        return [letter for letter in letters if self._wanted(letter)]


def _mark_of(record: ReceivedRecord) -> str | None:
    return decode_mark(record.key, record.value, record.headers)


def _is_read(name: str, read_to: Mapping[int, int]) -> bool:
    """Whether no letter of this name follows; ``read_to``: the last offset read of each partition."""
    at = re.fullmatch(r"kafka:(\d{1,9}):(\d{1,19})", name)
    return at is None or int(at[2]) <= read_to.get(int(at[1]), -1)


def _chunks(letters: Iterator[DeadLetter]) -> Iterator[list[DeadLetter]]:
    while chunk := list(islice(letters, CHUNK)):
        yield chunk
