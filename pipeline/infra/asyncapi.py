"""The AsyncAPI 3.0 document of a service: its topics, what runs on each, and the data of their events."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from pipeline.author.registry import Registry
from pipeline.infra.needs import TopicNeed, topic_needs
from pipeline.settings import DLQ_TOPIC, ERRORS_TOPIC, JOBS_TOPIC, Settings
from pipeline.wire.events import CONTENT_TYPE, JSON_TYPE, PREFIX, EventAttributes
from pipeline.wire.failure import error_event_schema

Node = dict[str, Any]

VERSION: Final = "3.0.0"
#: Of Kafka's bindings (github.com/asyncapi/bindings, kafka).
_BINDING: Final = "0.5.0"
#: How AsyncAPI names Avro; a schema of this project has nothing that 1.9 had not.
_AVRO: Final = "application/vnd.apache.avro+json;version=1.9.0"

_HEADERS: Final = "event-headers"

#: The properties of a topic that the channel's binding has; it takes whole numbers and lists.
_NUMBERS: Final = ("retention.ms", "max.message.bytes")

_SERVICE_TOPICS: Final[Mapping[str, str]] = {
    ERRORS_TOPIC: "Failures of tasks, events and jobs, with data, reason and position.",
    DLQ_TOPIC: "Events that could not become tasks: their own key, value and headers, and the reason.",
    JOBS_TOPIC: "The end of each job that completed or was cancelled.",
}


def asyncapi(settings: Settings, registry: Registry) -> Node:
    """Return the document of a service's topics, without those of Celery's control plane.

    ``info.version`` is a digest of the document: the same contract has the same version.
    """
    return _Document(settings, registry).build()


class _Document:
    """Collects channels, operations, messages and schemas of one service."""

    def __init__(self, settings: Settings, registry: Registry) -> None:
        self._settings = settings
        self._stages = tuple(registry.by_name.values())
        self._topics = registry.topics
        self._consumers = registry.consumers
        self._others = registry.topics_of_others
        self._schemas = registry.topic_schemas
        self._needs = {need.name: need for need in topic_needs(settings, registry)}
        self._definitions: Node = {_HEADERS: _headers()}
        self._messages: Node = {}

    def build(self) -> Node:
        """Return the document."""
        channels = dict(self._channels())
        contract = {
            "channels": channels,
            "operations": dict(self._operations()),
            "components": {"messages": self._messages, "schemas": self._definitions},
        }
        digest = hashlib.sha256(json.dumps(contract, sort_keys=True).encode()).hexdigest()[:12]
        return {
            "asyncapi": VERSION,
            "info": {
                "title": self._settings.service_name,
                "version": digest,
                "description": "Events are CloudEvents 1.0 in Kafka's binary mode: attributes in headers.",
            },
            "defaultContentType": JSON_TYPE,
            "servers": self._servers(),
            **contract,
        }

    def _servers(self) -> Node:
        url = self._settings.schema_registry_url
        bindings = {"schemaRegistryUrl": url, "bindingVersion": _BINDING} if url and self._schemas else None
        plain = self._settings.kafka_security_protocol.endswith("PLAINTEXT")
        brokers = self._settings.kafka_bootstrap_servers.split(",")
        servers = [each.strip().rpartition("://")[2] for each in brokers]
        return {
            f"kafka-{number}": {
                "host": host,
                "protocol": "kafka" if plain else "kafka-secure",
                **({"bindings": {"kafka": bindings}} if bindings else {}),
            }
            for number, host in enumerate(servers, 1)
        }

    def _channels(self) -> Iterator[tuple[str, Node]]:
        for topic in self._topics:
            self._messages[topic] = self._message(topic)
            yield topic, self._channel(topic, f"The events {topic}.")
        for topic in self._others:
            self._messages[topic] = self._message_of_others(topic)
            yield topic, self._channel_of_others(topic)
        for topic, description in _SERVICE_TOPICS.items():
            self._messages[topic] = self._service_message(topic, description)
            yield topic, self._channel(topic, description)

    def _channel(self, topic: str, description: str) -> Node:
        need = self._needs[self._settings.topic(topic)]
        return {
            "address": need.name,
            "description": description,
            "messages": {"event": {"$ref": f"#/components/messages/{topic}"}},
            "bindings": {"kafka": _binding(need)},
        }

    def _channel_of_others(self, topic: str) -> Node:
        """Return the channel of a topic that others made: nothing is known of its configuration."""
        return {
            "address": self._settings.topic_of_others(topic),
            "description": f"The topic {topic} of others.",
            "messages": {"event": {"$ref": f"#/components/messages/{topic}"}},
        }

    def _operations(self) -> Iterator[tuple[str, Node]]:
        group = {"type": "string", "enum": [self._settings.kafka_consumer_group]}
        bindings = {"kafka": {"groupId": group, "bindingVersion": _BINDING}}
        for stage in self._stages:
            summary = f"Run the stage {stage.name} for each event."
            yield (
                f"{stage.name}.receive",
                {**_operation("receive", stage.consumes, summary), "bindings": bindings},
            )
            if stage.emits is not None:
                yield (
                    f"{stage.name}.send",
                    _operation("send", stage.emits, f"Emit the result of the stage {stage.name}."),
                )
        for consumer in self._consumers.values():
            summary = f"Make events {consumer.emits} of its records, by the consumer {consumer.name}."
            yield (
                f"{consumer.name}.receive",
                {**_operation("receive", consumer.topic, summary), "bindings": bindings},
            )
        for topic, description in _SERVICE_TOPICS.items():
            yield f"{topic}.send", _operation("send", topic, description)

    def _message(self, topic: str) -> Node:
        emitted = [stage for stage in self._stages if stage.emits == topic]
        schema = self._schemas.get(topic)
        binding: Node = {
            "key": {"type": "string", "description": "The entity."},
            "bindingVersion": _BINDING,
        }
        if schema:
            binding |= {
                "schemaIdLocation": "payload",
                "schemaIdPayloadEncoding": "confluent",
                "schemaLookupStrategy": "TopicNameStrategy",
            }
        message: Node = {
            "name": topic,
            "contentType": schema.content_type if schema else JSON_TYPE,
            "headers": {"$ref": f"#/components/schemas/{_HEADERS}"},
            "bindings": {"kafka": binding},
        }
        if schema and schema.format == "avro":
            return message | {"payload": {"schemaFormat": _AVRO, "schema": json.loads(schema.text)}}
        if emitted:
            return message | {"payload": self._payload(topic, emitted[0].output_schema())}
        taken = {stage.name: stage.input_schema() for stage in self._stages if stage.consumes == topic}
        return message | {"payload": self._payload_of_all(topic, taken)}

    def _message_of_others(self, topic: str) -> Node:
        """Return the records of others as JSON, whatever format they have: it is known by their content."""
        taken = {each.name: each.input_schema() for each in self._consumers.values() if each.topic == topic}
        return {"name": topic, "payload": self._payload_of_all(topic, taken)}

    def _payload_of_all(self, topic: str, schemas: Mapping[str, Node]) -> Node:
        """Return the schema of data that each of several functions takes."""
        payloads = [self._payload(f"{topic}.{name}", schema) for name, schema in schemas.items()]
        return payloads[0] if len(payloads) == 1 else {"allOf": payloads}

    def _service_message(self, topic: str, description: str) -> Node:
        message: Node = {"name": topic, "summary": description, "contentType": JSON_TYPE}
        if topic == DLQ_TOPIC:
            # Whatever others wrote: no schema, and any content type.
            del message["contentType"]
            return message
        message["headers"] = {"$ref": f"#/components/schemas/{_HEADERS}"}
        if topic == ERRORS_TOPIC:
            return message | {"payload": self._payload(topic, error_event_schema())}
        names = ("job_id", "entity_id", "topic")
        properties = {name: {"type": "string"} for name in names}
        return message | {"payload": {"type": "object", "required": [*names], "properties": properties}}

    def _payload(self, name: str, schema: Node) -> Node:
        """Return a schema whose definitions are the document's, under the name of their message."""
        definitions = schema.pop("$defs", {})
        for key, each in definitions.items():
            self._definitions[f"{name}.{key}"] = _moved(each, name)
        moved: Node = _moved(schema, name)
        return moved


def _headers() -> Node:
    """Return the schema of an event's headers; an event without ``ce_*`` headers is plain JSON."""
    attributes = EventAttributes.model_json_schema()["properties"]
    names = {PREFIX + name: each for name, each in attributes.items()}
    content_type = {"type": "string", "description": "The media type of the value."}
    return {"type": "object", "properties": {**names, CONTENT_TYPE: content_type}}


def _binding(need: TopicNeed) -> Node:
    configuration: Node = {name: int(need.config[name]) for name in _NUMBERS if name in need.config}
    if policy := need.config.get("cleanup.policy"):
        configuration["cleanup.policy"] = policy.split(",")
    return {
        "topic": need.name,
        "partitions": need.partitions,
        "replicas": need.replication,
        "topicConfiguration": configuration,
        "bindingVersion": _BINDING,
    }


def _operation(action: str, topic: str, summary: str) -> Node:
    channel = f"#/channels/{topic}"
    return {
        "action": action,
        "channel": {"$ref": channel},
        "summary": summary,
        "messages": [{"$ref": f"{channel}/messages/event"}],
    }


def _moved(node: Any, name: str) -> Any:
    """Return a schema with its references to definitions of its own as references into the document."""
    if isinstance(node, Mapping):
        return {
            key: f"#/components/schemas/{name}.{each.rsplit('/', 1)[1]}"
            if key == "$ref" and isinstance(each, str)
            else _moved(each, name)
            for key, each in node.items()
            # OpenAPI's, which pydantic adds for a union with a tag; AsyncAPI's is a text.
            if not (key == "discriminator" and isinstance(each, Mapping) and "propertyName" in each)
        }
    return [_moved(each, name) for each in node] if isinstance(node, list) else node
