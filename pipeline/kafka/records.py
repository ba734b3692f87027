"""Records of Kafka: those to produce, and those that were consumed."""

from dataclasses import dataclass

#: In their order; a name may come twice.
Headers = tuple[tuple[str, bytes], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class OutgoingRecord:
    """One record to produce."""

    topic: str
    #: Records with one key keep their order: they share a partition.
    key: bytes | None
    #: None is a tombstone.
    value: bytes | None
    headers: Headers = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class ReceivedRecord:
    """One record as consumed."""

    topic: str
    partition: int
    offset: int
    #: When it was produced, in milliseconds since 1970.
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers
