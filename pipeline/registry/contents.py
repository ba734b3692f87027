"""The contents of records: what a schema describes is read as JSON, JSON is left as it is.

A format is told by the content, never by a setting or a header: a record in Confluent's wire format begins
with a byte 0, and no JSON does. A key is read where it can be; it may be anything, a number in binary too.
"""

from dataclasses import replace

from pydantic_core import from_json, to_json

from pipeline.errors import InvalidEventError
from pipeline.kafka import ReceivedRecord
from pipeline.registry import SchemaRegistry
from pipeline.registry.frames import MAGIC, schema_id_of
from pipeline.registry.known import KnownReaders
from pipeline.settings import Settings
from pipeline.wire.events import CONTENT_TYPE, JSON_TYPE, REDRIVE, Redrive, record_digest, redrive_of

#: How Kafka Connect's JSON converter begins, with ``schemas.enable=true``.
_WRAPPED = b'{"schema":{"type":"'


class Contents:
    """Reads the records of a bridge or replay. Of one thread; the schemas come on another one."""

    def __init__(self, settings: Settings) -> None:
        """Raises ConfigurationError where SCHEMA_REGISTRY_URL cannot be used."""
        self._readers = (
            KnownReaders(SchemaRegistry(settings)) if settings.schema_registry_url is not None else None
        )

    def start(self) -> None:
        """Start to get schemas."""
        if self._readers:
            self._readers.start()

    def close(self) -> None:
        """End the thread and its connections."""
        if self._readers:
            self._readers.close()

    @property
    def trouble(self) -> str | None:
        """Why the registry does not answer, if it was asked and does not."""
        return self._readers.trouble if self._readers else None

    def is_ready(self, record: ReceivedRecord) -> bool:
        """Whether a record can be read, or refused, now; else its schemas are being asked for."""
        if not _is_framed(record):
            return True
        # Both are asked for together.
        key, value = self._is_known(record.key, record), self._is_known(record.value, record)
        return key and value

    def read(self, record: ReceivedRecord) -> ReceivedRecord:
        """Return a record that is ready, with its key and value as events have them.

        Raises InvalidEventError for a value that cannot be read.
        """
        if not (_is_framed(record) or _is_wrapped(record)):
            return record
        key, value = self._key(record), self._value(record)
        redrive = redrive_of(record.headers, record.topic, record.key, record.value)
        headers = [
            (name, JSON_TYPE.encode())
            if name.lower() == CONTENT_TYPE and value != record.value
            else (name, text)
            for name, text in record.headers
            if name != REDRIVE
        ]
        if redrive:
            # It was written for the record as it is on Kafka, which ``redrive_of`` has compared.
            headers.append(_renewed(redrive, record.topic, key, value).header())
        return replace(record, key=key, value=value, headers=tuple(headers))

    def read_now(self, record: ReceivedRecord) -> ReceivedRecord:
        """Read a record as ``read`` does, after asking for its schemas on this thread.

        Raises the ServiceError of a registry that does not give them.
        """
        for schema_id in {schema_id_of(record.key), schema_id_of(record.value)} - {None}:
            if self._readers and schema_id is not None:
                self._readers.get_now(schema_id)
        return self.read(record)

    def _is_known(self, part: bytes | None, record: ReceivedRecord) -> bool:
        schema_id = schema_id_of(part)
        if schema_id is None or self._readers is None:
            return True
        try:
            return self._readers.find(schema_id, record.timestamp_ms / 1000) is not None
        except InvalidEventError:
            return True

    def _value(self, record: ReceivedRecord) -> bytes | None:
        if record.value is None or record.value[:1] != MAGIC:
            payload = _payload(record.value)
            return record.value if payload is None else payload
        schema_id = schema_id_of(record.value)
        if schema_id is None:
            raise InvalidEventError(
                f"the value begins with a byte 0 and names no schema: {record.value[:20]!r}. It is neither "
                "JSON nor in Confluent's wire format"
            )
        if self._readers is None:
            raise InvalidEventError(
                f"the value is in Confluent's wire format, with schema {schema_id}: set SCHEMA_REGISTRY_URL, "
                "install celery-stages[schemas], and redrive the event"
            )
        return self._read(schema_id, record.value, record)

    def _key(self, record: ReceivedRecord) -> bytes | None:
        """Return the key as text of an entity; a key that no schema describes as it is."""
        schema_id = schema_id_of(record.key)
        if schema_id is None or record.key is None or self._readers is None:
            payload = _payload(record.key)
            return record.key if payload is None else _entity_text(payload)
        try:
            return _entity_text(self._read(schema_id, record.key, record))
        except InvalidEventError:
            # A number or a UUID in binary may begin with a byte 0, too.
            return record.key

    def _read(self, schema_id: int, part: bytes, record: ReceivedRecord) -> bytes:
        assert self._readers is not None
        reader = self._readers.find(schema_id, record.timestamp_ms / 1000)
        if reader is None:
            raise InvalidEventError(
                f"schema {schema_id} was not known yet when its partition was read anew: redrive the event"
            )
        return reader.read(part)


def _is_framed(record: ReceivedRecord) -> bool:
    key, value = record.key, record.value
    return (value is not None and value[:1] == MAGIC) or (key is not None and key[:1] == MAGIC)


def _is_wrapped(record: ReceivedRecord) -> bool:
    return any(part is not None and part.startswith(_WRAPPED) for part in (record.key, record.value))


def _payload(part: bytes | None) -> bytes | None:
    """Return what Kafka Connect's JSON converter wrapped with its schema; None for anything else."""
    if part is None or not part.startswith(_WRAPPED):
        return None
    try:
        value = from_json(part, allow_inf_nan=False)
    except ValueError:
        return None
    schema = value.get("schema")
    if value.keys() != {"schema", "payload"} or not isinstance(schema, dict):
        return None
    return to_json(value["payload"]) if isinstance(schema.get("optional"), bool) else None


def _entity_text(key: bytes) -> bytes:
    """Return a key that was read: text as it is, anything else as JSON with sorted names."""
    value = from_json(key)
    return value.encode() if isinstance(value, str) else to_json(_sorted(value))


def _sorted(value: object) -> object:
    # Another version of the schema may have the fields in another order.
    if isinstance(value, dict):
        return {name: _sorted(value[name]) for name in sorted(value)}
    return [_sorted(each) for each in value] if isinstance(value, list) else value


def _renewed(redrive: Redrive, topic: str, key: bytes | None, value: bytes | None) -> Redrive:
    return redrive.model_copy(update={"digest": record_digest(topic, key, value)})
