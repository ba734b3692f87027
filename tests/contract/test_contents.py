"""The contract of reading by schema: bytes of Confluent's serializers, with Apicurio's schemas, as JSON."""

import base64
import datetime
import decimal
import json
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.schema_registry import Schema as VendorSchema
from confluent_kafka.schema_registry import SchemaReference, SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroSerializer
from confluent_kafka.schema_registry.protobuf import ProtobufSerializer
from confluent_kafka.serialization import MessageField, SerializationContext
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, timestamp_pb2

from pipeline.errors import InvalidEventError
from pipeline.kafka import ReceivedRecord
from pipeline.registry.contents import Contents
from pipeline.registry.frames import HEAD, frame
from pipeline.wire.events import REDRIVE, Redrive, record_digest, redrive_of
from tests.builders import settings
from tests.processes import wait_until
from tests.registry import RunningRegistry

#: Every type of Avro, and the logical ones.
EVERYTHING = {
    "type": "record",
    "name": "Everything",
    "namespace": "shop",
    "fields": [
        {"name": "id", "type": "long"},
        {"name": "price", "type": {"type": "bytes", "logicalType": "decimal", "precision": 12, "scale": 2}},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "day", "type": {"type": "int", "logicalType": "date"}},
        {"name": "mark", "type": {"type": "string", "logicalType": "uuid"}},
        {"name": "raw", "type": "bytes"},
        {"name": "fixed", "type": {"type": "fixed", "name": "Four", "size": 4}},
        {"name": "note", "type": ["null", "string", "int"]},
        {"name": "state", "type": {"type": "enum", "name": "State", "symbols": ["NEW", "DONE"]}},
        {"name": "tags", "type": {"type": "map", "values": "long"}},
        {"name": "lines", "type": {"type": "array", "items": {
            "type": "record", "name": "Line", "fields": [{"name": "amount", "type": "double"}]}}},
        {"name": "other", "type": ["null", "Line"]},
        {"name": "ratio", "type": "float"},
        {"name": "yes", "type": "boolean"},
    ],
}  # fmt: skip

JSON_SCHEMA = '{"$schema": "http://json-schema.org/draft-07/schema#", "type": "object"}'

PROTO = """\
syntax = "proto3";
package shop;
import "google/protobuf/timestamp.proto";
message Other { string unused = 1; }
message Order {
  message Line { int64 amount = 1; bytes raw = 2; }
  enum State { NEW = 0; DONE = 1; }
  string customer_name = 1;
  repeated Line lines = 2;
  State state = 3;
  google.protobuf.Timestamp at = 4;
  map<string, int32> tags = 5;
  optional int32 maybe = 6;
  double ratio = 7;
}
"""

#: Bytes of Java's serializers, each with its schema; tests/data/README.md has how they were made.
JAVA = json.loads((Path(__file__).parents[1] / "data" / "java" / "records.json").read_text())

#: What they are as JSON.
JAVA_LINE = {"amount": str(2**60), "raw": "//4="}
JAVA_JSON = {
    "avro": {
        "id": 2**62,
        "price": "-1234.50",
        "rate": "-0.0625",
        "at": "2026-01-02T03:04:05.678000Z",
        "until": "2026-01-02T03:04:05.678901Z",
        "day": "2026-01-02",
        "mark": "0b5e4a1c-6f5d-4b8e-9f57-0d8a2f0e7a11",
        "raw": "//4A",
        "note": "hé😀",
        "other": 7,
        "state": "DONE",
        "tags": {"a": -1},
        "lines": [{"sku": "x", "inner": {"sku": "y", "inner": None}}],
        "ratio": 0.5,
        "share": "NaN",
        "paid": True,
    },
    "avro-key": {"shop": "a", "id": 1004},
    "protobuf-first": {"name": "ada"},
    "protobuf-second": {
        "customer_name": "ada",
        "lines": [JAVA_LINE],
        "state": "DONE",
        "at": "2026-01-02T03:04:05.678Z",
        "tags": {"a": 7},
        "ratio": 0.0,
    },
    "json": {"id": 2**62, "customer": "hé", "lines": [{"sku": "x", "price": 1.5}]},
}


@pytest.fixture
def vendor(schema_registry: RunningRegistry) -> Iterator[SchemaRegistryClient]:
    """Confluent's own client of the session's registry."""
    with SchemaRegistryClient({"url": schema_registry.url}) as client:
        yield client


@pytest.fixture
def contents(schema_registry: RunningRegistry) -> Iterator[Contents]:
    """Contents with the session's registry."""
    with closing(Contents(settings(schema_registry_url=schema_registry.url))) as contents:
        contents.start()
        yield contents


@pytest.fixture
def topic() -> str:
    """A topic of the test's own."""
    return f"orders-{uuid.uuid4().hex}"


def received(value: bytes | None, key: bytes | None = None, **changes: Any) -> ReceivedRecord:
    """A record as consumed, written long ago."""
    return ReceivedRecord(
        **{
            "topic": "orders",
            "partition": 0,
            "offset": 1,
            "timestamp_ms": 1_700_000_000_000,
            "key": key,
            "value": value,
            "headers": (),
            **changes,
        }
    )


def read(contents: Contents, record: ReceivedRecord) -> ReceivedRecord:
    """Read a record as the bridge does: once its schemas are known."""
    wait_until(lambda: contents.is_ready(record), "the schema")
    return contents.read(record)


def value_of(contents: Contents, value: bytes) -> Any:
    """The JSON value in bytes of a record."""
    found = read(contents, received(value)).value
    assert found is not None
    return json.loads(found)


def test_every_type_of_avro_becomes_json(
    contents: Contents, vendor: SchemaRegistryClient, topic: str
) -> None:
    """Bytes of Confluent's serializer are read: decimals and bytes as text, moments in ISO 8601."""
    write = AvroSerializer(vendor, json.dumps(EVERYTHING))
    mark = uuid.uuid4()
    order = {
        "id": 2**62,
        "price": decimal.Decimal("-1.20"),
        "at": datetime.datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=datetime.UTC),
        "day": datetime.date(2026, 1, 2),
        "mark": mark,
        "raw": b"\xff\xfe\x00",
        "fixed": b"\x00\x01\x02\x03",
        "note": "hé",
        "state": "DONE",
        "tags": {"b": 1, "a": -1},
        "lines": [{"amount": 1.5}, {"amount": float("nan")}],
        "other": {"amount": float("-inf")},
        "ratio": 0.5,
        "yes": True,
    }
    data = write(order, SerializationContext(topic, MessageField.VALUE))
    assert value_of(contents, data) == {
        **order,
        "price": "-1.20",
        "at": "2026-01-02T03:04:05.678000Z",
        "day": "2026-01-02",
        "mark": str(mark),
        "raw": "//4A",
        "fixed": "AAECAw==",
        "lines": [{"amount": 1.5}, {"amount": "NaN"}],
        "other": {"amount": "-Infinity"},
    }


def test_an_avro_schema_may_refer_to_others(
    contents: Contents, vendor: SchemaRegistryClient, topic: str
) -> None:
    """A type that another subject has is found there."""
    name = f"Line{uuid.uuid4().hex}"
    line = {
        "type": "record",
        "name": name,
        "namespace": "shop",
        "fields": [{"name": "amount", "type": "int"}],
    }
    vendor.register_schema(f"{topic}-line", VendorSchema(json.dumps(line), "AVRO"))
    order = {
        "type": "record",
        "name": "Order",
        "namespace": "shop",
        "fields": [
            {"name": "line", "type": f"shop.{name}"},
            {"name": "last", "type": ["null", f"shop.{name}"]},
        ],
    }
    references = [SchemaReference(f"shop.{name}", f"{topic}-line", 1)]
    schema_id = vendor.register_schema(f"{topic}-value", VendorSchema(json.dumps(order), "AVRO", references))
    assert value_of(contents, frame(schema_id, b"\x04\x02\x06")) == {
        "line": {"amount": 2},
        "last": {"amount": 3},
    }


def _order_class() -> Any:
    """The class of the message in PROTO, as a Java or Python producer has it, made without protoc."""
    file = descriptor_pb2.FileDescriptorProto(name="order.proto", package="shop", syntax="proto3")
    file.dependency.append("google/protobuf/timestamp.proto")
    file.message_type.add(name="Other").field.add(name="unused", number=1, type=9, label=1)
    order = file.message_type.add(name="Order")
    line = order.nested_type.add(name="Line")
    line.field.add(name="amount", number=1, type=3, label=1)
    line.field.add(name="raw", number=2, type=12, label=1)
    order.field.add(name="customer_name", number=1, type=9, label=1)
    order.field.add(name="lines", number=2, type=11, label=3, type_name=".shop.Order.Line")
    order.field.add(name="at", number=4, type=11, label=1, type_name=".google.protobuf.Timestamp")
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(timestamp_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("shop.Order"))


def test_protobuf_of_a_registered_text_becomes_json(
    contents: Contents, vendor: SchemaRegistryClient, topic: str
) -> None:
    """The second message of a file, as Java's serializer frames it: every field without presence is there."""
    schema_id = vendor.register_schema(f"{topic}-value", VendorSchema(PROTO, "PROTOBUF"))
    order = _order_class()(customer_name="ada", lines=[{"amount": 2**60, "raw": b"\xff\xfe"}])
    data = frame(schema_id, b"\x02\x02" + order.SerializeToString())
    assert value_of(contents, data) == {
        "customer_name": "ada",
        "lines": [{"amount": str(2**60), "raw": "//4="}],
        "state": "NEW",
        "tags": {},
        "ratio": 0.0,
    }
    # The first message inside the second one.
    nested = order.lines[0].SerializeToString()
    assert value_of(contents, frame(schema_id, b"\x04\x02\x00" + nested))["amount"] == str(2**60)


def test_protobuf_of_confluents_serializer_becomes_json(
    contents: Contents, vendor: SchemaRegistryClient, topic: str
) -> None:
    """It registers descriptors, with references to the files they import."""
    kind = _order_class()
    write = ProtobufSerializer(kind, vendor, {"use.deprecated.format": False})
    order = kind(customer_name="ada", at=datetime.datetime.fromtimestamp(1, datetime.UTC))
    data = write(order, SerializationContext(topic, MessageField.VALUE))
    assert value_of(contents, data) == {"customer_name": "ada", "lines": [], "at": "1970-01-01T00:00:01Z"}


def _of_java(name: str, vendor: SchemaRegistryClient, topic: str) -> bytes:
    """A record of Java's serializers; the id is replaced by the one that this registry gives the schema."""
    made = next(each for each in JAVA if each["name"] == name)
    schema_id = vendor.register_schema(f"{topic}-{name}", VendorSchema(made["schema"], made["kind"]))
    return frame(schema_id, base64.b64decode(made["data"])[HEAD:])


@pytest.mark.parametrize("name", JAVA_JSON)
def test_what_java_wrote_becomes_json(
    contents: Contents, vendor: SchemaRegistryClient, topic: str, name: str
) -> None:
    """Also Apicurio's Protobuf, which names its message, in a schema that spells its maps out."""
    assert value_of(contents, _of_java(name, vendor, topic)) == JAVA_JSON[name]


def test_a_nested_message_that_java_named_is_refused(
    contents: Contents, vendor: SchemaRegistryClient, topic: str
) -> None:
    """The name has no path: which message it is cannot be known."""
    with pytest.raises(InvalidEventError, match="its schema has no message"):
        value_of(contents, _of_java("protobuf-nested", vendor, topic))


def test_json_schema_is_read_and_not_changed(
    contents: Contents, vendor: SchemaRegistryClient, topic: str
) -> None:
    """The content is JSON already."""
    schema_id = vendor.register_schema(f"{topic}-value", VendorSchema(JSON_SCHEMA, "JSON"))
    assert read(contents, received(frame(schema_id, b'{"b": 1, "a": 2}'))).value == b'{"b": 1, "a": 2}'
    with pytest.raises(InvalidEventError, match=rf"does not fit schema {schema_id} \(JSON\)"):
        read(contents, received(frame(schema_id, b"{")))


def test_a_key_becomes_the_text_of_its_entity(
    contents: Contents, vendor: SchemaRegistryClient, topic: str
) -> None:
    """Text as it is, a record as JSON with sorted names; a key that no schema describes stays."""
    text = vendor.register_schema(f"{topic}-a", VendorSchema('"string"', "AVRO"))
    fields = [{"name": name, "type": "long"} for name in ("shop", "id")]
    record = vendor.register_schema(
        f"{topic}-b", VendorSchema(json.dumps({"type": "record", "name": "Key", "fields": fields}), "AVRO")
    )

    def key(data: bytes) -> bytes | None:
        return read(contents, received(b"1", data)).key

    assert key(frame(text, b"\x06ada")) == b"ada"
    assert key(frame(record, b"\x02\x04")) == b'{"id":2,"shop":1}'
    for unread in (b"\x00" * 8, frame(2_000_000_000, b"x"), frame(text, b"\x07")):
        assert key(unread) == unread


def test_what_is_no_record_of_its_schema_is_refused_with_the_id(
    contents: Contents, vendor: SchemaRegistryClient, topic: str
) -> None:
    """Too few bytes, too many, no schema of the id, no id."""
    schema_id = vendor.register_schema(f"{topic}-value", VendorSchema('"string"', "AVRO"))
    for content in (b"", b"\x06ad", b"\x06adaa"):
        with pytest.raises(InvalidEventError, match=rf"does not fit schema {schema_id} \(AVRO\)"):
            read(contents, received(frame(schema_id, content)))
    with pytest.raises(InvalidEventError, match="has no schema 2000000000"):
        read(contents, received(frame(2_000_000_000, b"")))
    with pytest.raises(InvalidEventError, match="names no schema"):
        read(contents, received(b"\x00\x00"))


def test_a_redrive_is_believed_by_the_record_on_kafka(
    contents: Contents, vendor: SchemaRegistryClient, topic: str
) -> None:
    """The header of a redriven record stays with what was read of it; one of another record goes."""
    schema_id = vendor.register_schema(f"{topic}-value", VendorSchema('"string"', "AVRO"))
    value = frame(schema_id, b"\x06ada")
    redrive = Redrive(
        generation=1,
        topic="orders",
        partition=3,
        offset=7,
        timestamp_ms=5,
        digest=record_digest("orders", None, value),
    )
    found = read(contents, received(value, headers=(redrive.header(), ("content-type", b"avro/binary"))))
    assert dict(found.headers)["content-type"] == b"application/json"
    kept = redrive_of(found.headers, found.topic, found.key, found.value)
    assert kept is not None
    assert kept.model_copy(update={"digest": ""}) == redrive.model_copy(update={"digest": ""})
    copied = read(contents, received(value, topic="others", headers=(redrive.header(),)))
    assert REDRIVE not in dict(copied.headers)


def test_without_a_registry_the_setting_is_named() -> None:
    """A framed value is refused with the mend; a key is left as it is."""
    contents = Contents(settings())
    record = received(frame(7, b"x"))
    assert contents.is_ready(record)
    with pytest.raises(InvalidEventError, match="with schema 7: set SCHEMA_REGISTRY_URL"):
        contents.read(record)
    keyed = received(b"1", frame(7, b"x"))
    assert contents.read(keyed).key == keyed.key
