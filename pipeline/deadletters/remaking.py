"""The events that consumers make again of a dead-lettered record of a topic of others.

Nobody writes to a topic of others, so a redrive writes these to the topic that they would have been on. Their
ids are those that the bridge gives them (ADR 29).
"""

from dataclasses import replace
from functools import cached_property

from pipeline.author.registry import Registry
from pipeline.deadletters.letter import DeadLetter
from pipeline.errors import InvalidEventError
from pipeline.kafka import OutgoingRecord, ReceivedRecord
from pipeline.registry.contents import Contents
from pipeline.settings import Settings
from pipeline.wire.deadletter import coordinates_of, own_headers
from pipeline.wire.events import Coordinates, Event, Redrive, decode, encode, record_digest
from pipeline.worker.child.outcome import failed


class Remaking:
    """Runs the consumers of this process on dead letters."""

    def __init__(self, settings: Settings, registry: Registry) -> None:
        self._settings = settings
        self._consumers = {
            settings.topic_of_others(name): registry.consumers_on(name) for name in registry.topics_of_others
        }

    @cached_property
    def _contents(self) -> Contents:
        # Few redrives have a record of a topic of others, and only these may need the registry.
        return Contents(self._settings)

    def emits(self, topic: str | None) -> tuple[str, ...]:
        """Return the logical topics that the consumers of a Kafka topic emit to; empty for any other."""
        return tuple(dict.fromkeys(each.emits for each in self._consumers.get(topic or "", ())))

    def events(self, letter: DeadLetter) -> list[Event]:
        """Return the events of a letter's record: all, or the one whose job the letter names.

        Raises ``InvalidEventError`` where the record still becomes none, and the ``ServiceError`` of a schema
        registry that does not give its schema.
        """
        record, at = _record(letter)
        own = own_headers(record.headers)
        read = self._contents.read_now(replace(record, headers=tuple(own)))
        value = b"null" if read.value is None else read.value
        event = decode(key=read.key, value=value, headers=read.headers, coordinates=at)
        made: list[Event] = []
        for consumer in self._consumers[at.topic]:
            if record.value is None and not consumer.tombstones:
                continue
            try:
                made += consumer.make_events(self._settings.service_name, event, key=read.key, headers=own)
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                outcome = failed(error)
                raise InvalidEventError(
                    f"consumer {consumer.name}: {outcome.error}: {outcome.message}"
                ) from error
        wanted = [each for each in made if letter.job_id in (None, self.job_of(each))]
        if letter.job_id is not None and not wanted:
            raise InvalidEventError(f"its consumers make no event any more that begins job {letter.job_id}")
        return wanted

    def job_of(self, event: Event) -> str:
        """Return the job of an event that a consumer made."""
        return event.job_in(self._settings.service_name, event.type)[0]

    def outgoing(self, letter: DeadLetter, event: Event) -> OutgoingRecord:
        """Return the record that puts an event on the topic of its stages."""
        _, at = _record(letter)
        topic = self._settings.topic(event.type)
        key, value, headers = encode(event)
        redrive = Redrive(
            generation=letter.generation + 1,
            topic=at.topic,
            partition=at.partition,
            offset=at.offset,
            timestamp_ms=at.timestamp_ms,
            digest=record_digest(topic, key, value),
        )
        return OutgoingRecord(topic=topic, key=key, value=value, headers=(*headers, redrive.header()))


def _record(letter: DeadLetter) -> tuple[ReceivedRecord, Coordinates]:
    assert isinstance(letter.raw, ReceivedRecord)
    at = coordinates_of(letter.raw.headers)
    assert at is not None
    return letter.raw, at
