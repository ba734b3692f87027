"""Values of topics with a schema, in Confluent's wire format: a zero byte, the schema's id, the body."""

import threading
from contextlib import closing
from typing import Any, NamedTuple

from pipeline.author.stages import Stage
from pipeline.author.topicschema import TopicSchema
from pipeline.errors import ServiceRefusedError, ServiceUnavailableError
from pipeline.patience import Patience
from pipeline.registry.client import Schema, SchemaKind, SchemaRegistry
from pipeline.settings import Settings
from pipeline.wire.events import JSON_TYPE

_MAGIC = b"\x00"
_ID_BYTES = 4

#: The registry's words for the formats of topics.
_KINDS: dict[str, SchemaKind] = {"avro": "AVRO", "json-schema": "JSON"}


def subject_of(topic: str) -> str:
    """Return the subject of the values of a Kafka topic: Confluent's TopicNameStrategy."""
    return f"{topic}-value"


def registry_schema(schema: TopicSchema) -> Schema:
    """Return a topic's schema as the registry has it."""
    return Schema(kind=_KINDS[schema.format], text=schema.text)


class Written(NamedTuple):
    """The value of a record, and its media type."""

    value: bytes
    content_type: str


class Encoder:
    """Writes values by schemas that are registered; registers none. Threads share it.

    It waits for a registry that is away, or that does not have the schema any more: ids are asked for once,
    and the processes' start has seen them.
    """

    def __init__(self, settings: Settings, patience: Patience) -> None:
        self._settings = settings
        self._patience = patience
        self._ids: dict[tuple[str, TopicSchema], int] = {}
        self._lock = threading.Lock()

    def write(self, stage: Stage[Any, Any] | None, data: bytes) -> Written:
        """Return the value of JSON data as a stage writes it; the same data gives the same bytes.

        The id is that under the topic that the stage emits: also where a job's plan has an older topic.
        Raises PermanentError where the data does not fit the schema.
        """
        if stage is None or stage.topic_schema is None:
            return Written(data, JSON_TYPE)
        schema = stage.topic_schema
        body = schema.body(data)
        return Written(_MAGIC + self.find_id(stage).to_bytes(_ID_BYTES, "big") + body, schema.content_type)

    def find_id(self, stage: Stage[Any, Any]) -> int:
        """Return the id of the schema that a stage writes by."""
        assert stage.emits is not None
        assert stage.topic_schema is not None
        return self._id(subject_of(self._settings.topic(stage.emits)), stage.topic_schema)

    def _id(self, subject: str, schema: TopicSchema) -> int:
        with self._lock:
            known = self._ids.get((subject, schema))
            if known is None:
                known = self._patience.one("find schemas", lambda: self._find(subject, schema))
                self._ids[subject, schema] = known
            return known

    def _find(self, subject: str, schema: TopicSchema) -> int:
        try:
            # Once for each topic and version, so no connection is kept.
            with closing(SchemaRegistry(self._settings)) as registry:
                found = registry.find(subject, registry_schema(schema))
        except ServiceRefusedError as error:
            # A person corrects a login or a right; the results that wait are not to blame.
            raise ServiceUnavailableError(str(error)) from error
        if found is None:
            raise ServiceUnavailableError(
                f'the schema of {subject} is not registered any more. Run "pipeline provision".'
            )
        return found[0]
