"""The input and output of a consumer: a record of a topic of others, and an event of the service."""

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

from pipeline.wire.debezium import Operation, Source

T = TypeVar("T")

_NO_TIME = datetime.fromtimestamp(0, UTC)


@dataclass(frozen=True)
class Record(Generic[T]):
    """One record of a topic of others, as a consumer takes it: ``Record[Row]`` reads its value as ``Row``."""

    #: The value, read by the annotation; None for a tombstone, where ``tombstones=True`` asks for it. Of
    #: Debezium's envelope the row: as it is after the change, or as it was before it was deleted.
    data: T
    _: KW_ONLY
    #: The Kafka key as text, in hexadecimal if it is not UTF-8; None without one.
    key: str | None = None
    #: What happened: a CloudEvent's type, else the Kafka topic.
    type: str = ""
    #: A CloudEvent's time, else Kafka's timestamp.
    time: datetime = _NO_TIME
    #: The attributes of a CloudEvent by name, extensions too; empty for another record.
    attributes: Mapping[str, str] = field(default_factory=dict)
    #: The Kafka headers; of two with one name the last.
    headers: Mapping[str, bytes] = field(default_factory=dict)
    #: What was done to the row; None for a record that is not Debezium's. "read": a snapshot found it.
    operation: Operation | None = None
    #: The row as Debezium has it, not read by the annotation: before a change often its key alone.
    before: Any = None
    after: Any = None
    #: Where the change was made.
    source: Source | None = None
    #: The place on Kafka.
    topic: str = ""
    partition: int = 0
    offset: int = 0


@dataclass(frozen=True)
class Event(Generic[T]):
    """One event that a consumer makes, where more than its data is to be set."""

    data: T
    _: KW_ONLY
    #: What it is about; None: the record's key.
    entity: str | None = None
    #: Unique among the events of the consumer, and a function of the record; None: made of the record's id.
    id: str | None = None
    #: When it happened, with a time zone; None: the record's time.
    time: datetime | None = None
