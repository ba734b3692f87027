"""A consumer: a pure function of the service that makes events of the records of a topic of others.

    @consumer("orders-cdc", emits="order-placed")
    def placed(record: Record[OrderRow]) -> Order | None: ...

The annotations are the schema: that of the record's value, and that of the data of the events. None passes
the record over, a list makes an event of each item. Calling a consumer just runs its function.
"""

import functools
import typing
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Generic, TypeVar

from pipeline.author.annotations import Signature
from pipeline.author.codec import Codec, describe, is_union, without_none
from pipeline.author.records import Event, Record
from pipeline.author.stages import Stage
from pipeline.errors import InvalidInputError, PermanentError, StageDefinitionError
from pipeline.wire import debezium, events, identity

In = TypeVar("In")
Out = TypeVar("Out")

#: The most events of one record: half of what a bridge holds. A split of a stage takes any number of parts.
MAX_EVENTS: Final = 1_000

#: The most characters of an event's id, as of the ``ce_id`` of others.
_ID_LIMIT: Final = 1_024


@dataclass(frozen=True, kw_only=True)
class ConsumerOptions:
    """The options of the decorator."""

    name: str
    #: Name of the topic of others, as it is on Kafka unless KAFKA_TOPIC_<NAME> maps it.
    topic: str
    #: Logical name of the topic whose stages take the events.
    emits: str
    #: Whether a record without a value is a record, with None as its data.
    tombstones: bool = False


class Consumer(Generic[In, Out]):
    """A consumer, as ``consumer`` makes it. Calling it calls its function."""

    #: The function's name, set by functools.update_wrapper.
    __name__: str

    def __init__(self, function: Callable[[Record[In]], Out], options: ConsumerOptions) -> None:
        functools.update_wrapper(self, function)
        self.function = function
        self.options = options
        self.name, self.topic, self.emits = options.name, options.topic, options.emits
        self.tombstones = options.tombstones
        self._signature = Signature(function, 1, "@consumer")

    def __call__(self, record: Record[In]) -> Out:
        """Run the function; nothing else happens."""
        return self.function(record)

    def __repr__(self) -> str:
        return f"<consumer {self.name}: {self.topic} -> {self.emits}>"

    @property
    def where(self) -> str:
        """Function, module and line, for messages."""
        return self._signature.where

    def make_events(
        self, service: str, event: events.Event, *, key: bytes | None, headers: events.Headers
    ) -> list[events.Event]:
        """Run the function on a record; return the events it makes of it, the same for the same record.

        ``event`` is what the record says itself, ``key`` and ``headers`` are Kafka's. Raises what the
        function raises, ``InvalidInputError`` for data that is not of the annotation, and ``PermanentError``
        for a result that is not.
        """
        change = debezium.change_in(event.data)
        if change and change.operation == "truncate" and not self._takes_none():
            # There is no row to read.
            return []
        made = self.function(self._record(event, key, headers, change))
        values = made if isinstance(made, list) else [] if made is None else [made]
        if len(values) > MAX_EVENTS:
            raise PermanentError(
                f"{self.where}: it made {len(values):,} events of one record, {MAX_EVENTS:,} is the most. "
                "Make one event, and divide it by a split of the stage."
            )
        found = [self._event(service, event, at, value) for at, value in enumerate(values)]
        if len({each.id for each in found}) < len(found):
            raise PermanentError(
                f"{self.where}: two events of one record have the same id, so that the second would be "
                "dropped as a copy. Give each its own, or none."
            )
        return found

    def input_schema(self) -> dict[str, Any]:
        """Return the JSON Schema of the value of its records, as it is read."""
        return self._data.schema()

    # ─── checks ───

    def check(self) -> None:
        """Raise ``StageDefinitionError`` where the function cannot be a consumer."""
        self._signature.check()
        self._data.check()
        self._returned.check_written()
        if self.tombstones:
            self._check_tombstones()

    def check_handover(self, stage: Stage[Any, Any]) -> None:
        """Raise ``StageDefinitionError`` where ``stage`` cannot read the events of this consumer."""
        self._returned.check_read_by(stage.input)

    def _check_tombstones(self) -> None:
        if not self._takes_none():
            taken = describe(self._data.annotation)
            raise StageDefinitionError(
                f"{self.where}: tombstones=True, but it takes Record[{taken}] and a tombstone's data is "
                f"None. Annotate Record[{taken} | None], or leave tombstones= out."
            )

    def _takes_none(self) -> bool:
        try:
            self._data.load("null")
        except InvalidInputError:
            return False
        return True

    # ─── the annotations ───

    @functools.cached_property
    def _data(self) -> Codec:
        """The codec of the record's value."""
        annotation = self._signature.parameter(0).annotation
        if typing.get_origin(annotation) is not Record:
            raise StageDefinitionError(
                f"{self.where}: it takes {describe(annotation)}. Annotate Record[T], T being what the value "
                "of a record is."
            )
        return Codec(typing.get_args(annotation)[0], self.where)

    @functools.cached_property
    def _returned(self) -> Codec:
        """The codec of the data of one event."""
        whole = self._signature.returned.annotation
        one = without_none(whole)
        if typing.get_origin(one) is list:
            one = without_none(typing.get_args(one)[0])
        members = typing.get_args(one) if is_union(one) else (one,)
        events_of = [member for member in members if typing.get_origin(member) is Event]
        if Event in members or Record in members or (events_of and len(members) > 1):
            raise StageDefinitionError(
                f"{self.where}: it returns {describe(whole)}. Annotate one of T, Event[T], list[T] and "
                "list[Event[T]], or one of these | None, T being the data of the events."
            )
        if one in (None, type(None)):
            raise StageDefinitionError(
                f"{self.where}: it returns None, so no event would ever reach {self.emits!r}. Annotate "
                "what it returns."
            )
        return Codec(typing.get_args(one)[0] if events_of else one, self.where)

    # ─── at run time ───

    def _record(
        self, event: events.Event, key: bytes | None, headers: events.Headers, change: debezium.Change | None
    ) -> Record[Any]:
        at = event.coordinates
        assert at is not None
        return Record(
            self._data.load(change.row if change else event.data),
            key=None if key is None else events.key_text(key),
            type=event.type,
            time=event.time,
            attributes=event.attributes,
            headers={name: value or b"" for name, value in headers},
            operation=change.operation if change else None,
            before=change.before if change else None,
            after=change.after if change else None,
            source=change.source if change else None,
            topic=at.topic,
            partition=at.partition,
            offset=at.offset,
        )

    def _event(self, service: str, record: events.Event, at: int, value: Any) -> events.Event:
        """Return one event; ``at`` is its place among those of the record, from 0."""
        own = value if isinstance(value, Event) else Event(value)
        self._check_own(own)
        return events.Event(
            id=own.id or identity.consumed_event_id(record.source, record.id, at),
            source=events.source_of(service, self.name),
            type=self.emits,
            time=own.time or record.time,
            entity_id=own.entity or record.entity_id,
            data=self._returned.dump(own.data).encode(),
            traceparent=record.traceparent,
            carried=record.carried,
            coordinates=record.coordinates,
            generation=record.generation,
        )

    def _check_own(self, own: Event[Any]) -> None:
        """Refuse an entity, id or time that nothing could carry."""
        texts: Iterable[tuple[str, Any, int]] = (
            ("entity", own.entity, events.ENTITY_LIMIT),
            ("id", own.id, _ID_LIMIT),
        )
        for name, text, most in texts:
            if text is not None and not (isinstance(text, str) and 0 < len(text) <= most):
                raise PermanentError(
                    f"{self.where}: {name}={str(text)[:60]!r}. Use text of 1 to {most:,} characters, or None."
                )
            if text is not None and not _is_unicode(text):
                raise PermanentError(f"{self.where}: {name}={text[:60]!r} has half a character.")
        if own.time is not None and not (isinstance(own.time, datetime) and own.time.tzinfo):
            raise PermanentError(
                f"{self.where}: time={own.time!r}. Use a datetime with a time zone, or None."
            )


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
