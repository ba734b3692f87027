"""Readers of schemas: what would end or fill the process is refused, and what is asked for comes."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import InvalidEventError, ServiceRefusedError, ServiceUnavailableError
from pipeline.registry import Reference, Schema, SchemaRegistry
from pipeline.registry.frames import frame, message_indexes, message_name, schema_id_of
from pipeline.registry.known import ASK_AGAIN, GRACE, REMEMBER, KnownReaders
from pipeline.registry.readers import Reader
from tests.processes import wait_until


def avro(schema: Any) -> Reader:
    """The reader of an Avro schema."""
    return Reader(7, Schema(kind="AVRO", text=json.dumps(schema)))


def record(*fields: Any, name: str = "R") -> dict[str, Any]:
    """A record whose fields have these types."""
    return {
        "type": "record",
        "name": name,
        "fields": [{"name": f"f{at}", "type": kind} for at, kind in enumerate(fields)],
    }


def nested(kind: Any, times: int) -> Any:
    """A type in as many arrays."""
    for _ in range(times):
        kind = {"type": "array", "items": kind}
    return kind


def doubled(times: int) -> dict[str, Any]:
    """A record of two records of two records …, without a byte in any."""
    kind = record("null", name="R0")
    for at in range(1, times):
        kind = record(kind, f"R{at - 1}", name=f"R{at}")
    return kind


DANGEROUS = {
    "nested": json.dumps(nested("int", 200)),
    "nested too deep for JSON": '{"type":"array","items":' * 100_000 + '"int"' + "}" * 100_000,
    "nulls": json.dumps({"type": "array", "items": "null"}),
    "empty records": json.dumps({"type": "array", "items": record()}),
    "empty bytes": json.dumps({"type": "array", "items": {"type": "fixed", "name": "F", "size": 0}}),
    "nulls beside a byte": json.dumps({"type": "array", "items": record("int", *["null"] * 100)}),
    "nulls in a map": json.dumps({"type": "map", "values": record(*["null"] * 100)}),
    "doubled": json.dumps(doubled(20)),
    "no type": '"no-type"',
    "a number": "7",
    "no JSON": "{",
}


@pytest.mark.parametrize("text", DANGEROUS.values(), ids=DANGEROUS.keys())
def test_a_dangerous_schema_is_refused(text: str) -> None:
    """Nested too deep for the parsers, or with values that take no bytes: none of its records is read."""
    with pytest.raises(InvalidEventError, match=r"schema 7 \(AVRO\) cannot be used"):
        Reader(7, Schema(kind="AVRO", text=text))


def test_a_record_that_nests_without_end_does_not_end_the_process() -> None:
    """The compiled reader would run out of its stack."""
    reader = avro(record(["null", "R"]))
    assert reader.read(frame(7, b"\x02\x02\x00")) == b'{"f0":{"f0":{"f0":null}}}'
    for content in (b"\x02" * 1_000_000, b"\x02" * 1_000):
        with pytest.raises(InvalidEventError, match="does not fit schema 7"):
            reader.read(frame(7, content))
    with pytest.raises(InvalidEventError):
        avro(record("R")).read(frame(7, b""))


def test_a_length_beyond_the_record_takes_no_memory() -> None:
    """A text or array of 2^50 pieces in ten bytes is a record that does not fit."""
    for kind in ("string", "bytes", {"type": "array", "items": "int"}, {"type": "map", "values": "int"}):
        with pytest.raises(InvalidEventError, match="does not fit schema 7"):
            avro(kind).read(frame(7, b"\x80\x80\x80\x80\x80\x80\x80\x02"))


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        (Schema(kind="PROTOBUF", text="message {"), "Expected"),
        (Schema(kind="PROTOBUF", text='syntax = "proto3"; import "/etc/passwd"; message M {}'), "not found"),
        (
            Schema(
                kind="PROTOBUF",
                text='syntax = "proto3"; message M {}',
                references=(Reference(name="../../x.proto", text=""),),
            ),
            "no path of a file",
        ),
        (
            Schema(kind="PROTOBUF", text="message M { option map_entry = true; optional int32 key = 1; }"),
            "the entry of a map, M, has other fields",
        ),
        (Schema(kind="PROTOBUF", text="AAAA"), "cannot be used"),
        (Schema(kind="PROTOBUF", text="message M {" * 500 + "}" * 500), "cannot be used"),
    ],
)
def test_a_protobuf_file_that_is_none_is_refused(schema: Schema, why: str) -> None:
    """Its text, an import of this machine's files, a path out of the folder, no descriptor, too deep."""
    with pytest.raises(InvalidEventError, match=why):
        Reader(7, schema)


@given(st.binary(max_size=40))
def test_no_bytes_are_read_as_anything_but_json(content: bytes) -> None:
    """Whatever stands in the frame, it is JSON or an InvalidEventError."""
    for reader in READERS:
        try:
            json.loads(reader.read(frame(7, content)))
        except InvalidEventError:
            continue


READERS = [
    avro(
        record(
            ["null", "R", "double"],
            {"type": "long", "logicalType": "timestamp-micros"},
            {"type": "bytes", "logicalType": "decimal", "precision": 40, "scale": 3},
            {"type": "map", "values": ["bytes", {"type": "enum", "name": "E", "symbols": ["A"]}]},
        )
    ),
    avro({"type": "array", "items": ["int", "float", "string", {"type": "int", "logicalType": "date"}]}),
    Reader(7, Schema(kind="JSON", text="{}")),
    Reader(
        7,
        Schema(
            kind="PROTOBUF",
            text='syntax = "proto3"; import "google/protobuf/any.proto";'
            ' import "google/protobuf/struct.proto";'
            " message M { M m = 1; google.protobuf.Any any = 2; google.protobuf.Struct s = 3;"
            " map<int64, float> f = 4; }",
        ),
    ),
]


def test_frames_are_told_from_everything_else() -> None:
    """Five bytes and more, the first of them 0, with an id: a registry begins to count at 1."""
    assert schema_id_of(frame(1, b"")) == 1
    assert schema_id_of(frame(2**32 - 1, b"x")) == 2**32 - 1
    for other in (None, b"", b"\x00", b"\x00\x00\x00\x00", b'{"a": 1}', b"\x00" * 8):
        assert schema_id_of(other) is None


@pytest.mark.parametrize(
    ("content", "found"),
    [(b"\x00rest", ((0,), 1)), (b"\x02\x02", ((1,), 2)), (b"\x04\x00\x80\x01", ((0, 64), 4))],
)
def test_the_path_of_a_protobuf_message_is_read(content: bytes, found: Any) -> None:
    """The short form of the first message, one of the file, one inside another."""
    assert message_indexes(content) == found


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"\x07\x0a\x05Order\x0a\x03ada", ("Order", 8)),
        (b"\x07\x0a\x05Orde", None),
        (b"\x07\x0a\x04Order", None),
        (b"\x02\x0a\x00", None),
        (b"\x01\x0a\x00", None),
        (b"\x00", None),
        (b"", None),
        (b"\x02\x02\x0a\x03ada", None),
    ],
)
def test_the_name_of_a_protobuf_message_is_read(content: bytes, found: Any) -> None:
    """Its length is said twice, and both say the same."""
    assert message_name(content) == found


@pytest.mark.parametrize("content", [b"", b"\x01", b"\x02", b"\x80", b"\xff" * 20, b"\xfe\x01"])
def test_a_path_that_is_none_is_refused(content: bytes) -> None:
    """Cut off, negative, longer than any."""
    with pytest.raises(ValueError, match="message"):
        message_indexes(content)


# ─── Schemas that come ───

NOW = 1_700_000_000.0


class ScriptedRegistry(SchemaRegistry):
    """A registry that answers what it is told to."""

    def __init__(self) -> None:
        self.answers: dict[int, Callable[[], Schema | None]] = {}
        self.asked: list[int] = []
        self.may_answer = threading.Event()
        self.may_answer.set()

    def schema(self, schema_id: int) -> Schema | None:
        self.may_answer.wait(60)
        self.asked.append(schema_id)
        return self.answers.get(schema_id, lambda: None)()

    def close(self) -> None:
        pass


def text_schema() -> Schema:
    """A schema of text."""
    return Schema(kind="AVRO", text='"string"')


class World:
    """Readers, their registry and their clock."""

    def __init__(self) -> None:
        self.now = NOW
        self.registry = ScriptedRegistry()
        self.readers = KnownReaders(self.registry, lambda: self.now)

    def settled(self, schema_id: int, written_at: float = 1.0) -> Reader | str | None:
        """What ``find`` says once nothing is being asked for."""
        try:
            found = self.readers.find(schema_id, written_at)
            wait_until(lambda: not self.readers._wanted, "the answer")
            return found or self.readers.find(schema_id, written_at)
        except InvalidEventError as error:
            return str(error)


@contextmanager
def running() -> Iterator[World]:
    """A world whose thread runs."""
    world = World()
    world.readers.start()
    try:
        yield world
    finally:
        world.registry.may_answer.set()
        world.readers.close()


def test_a_schema_is_asked_for_once() -> None:
    """Schemas never change under their ids."""
    with running() as world:
        world.registry.answers[7] = text_schema
        assert isinstance(world.settled(7), Reader)
        assert world.settled(7) is world.settled(7)
        assert world.registry.asked == [7]


def test_a_schema_that_cannot_be_read_is_told_every_time() -> None:
    """It is refused for what it is, and asked for once."""
    with running() as world:
        world.registry.answers[7] = lambda: Schema(kind="AVRO", text="{")
        for _ in range(3):
            assert "schema 7 (AVRO) cannot be used" in str(world.settled(7))
        assert world.registry.asked == [7]


def test_an_unknown_schema_of_an_old_record_is_refused_at_once() -> None:
    """Its producer registered it before it wrote, so it would be there by now."""
    with running() as world:
        assert "has no schema 7" in str(world.settled(7, NOW - GRACE))
        world.now += REMEMBER - 1
        assert "has no schema 7" in str(world.settled(7, NOW - GRACE))
        assert world.registry.asked == [7]
        world.now += 2
        world.registry.answers[7] = text_schema
        assert isinstance(world.settled(7, NOW - GRACE), Reader)


@pytest.mark.parametrize("written_at", [NOW, NOW + 3600, 0.0])
def test_a_schema_may_come_a_moment_after_its_record(written_at: float) -> None:
    """Also where the producer's clock is ahead, or there is none: it is asked for again for five seconds."""
    with running() as world:
        assert world.settled(7, written_at) is None
        world.now += ASK_AGAIN / 2
        assert world.settled(7, written_at) is None
        assert world.registry.asked == [7]
        world.now += ASK_AGAIN
        assert world.settled(7, written_at) is None
        assert world.registry.asked == [7, 7]
        world.now += GRACE
        assert "has no schema 7" in str(world.settled(7, written_at))


@pytest.mark.parametrize("error", [ServiceUnavailableError("away"), ServiceRefusedError("denied")])
def test_a_registry_that_does_not_tell_is_waited_for(error: Exception) -> None:
    """Nothing is refused meanwhile, the reason is told, and other schemas come when it is back."""

    def fail() -> Schema:
        raise error

    with running() as world:
        world.registry.answers |= {7: fail, 8: fail}
        assert world.readers.find(7, 1.0) is None
        assert world.readers.find(8, 1.0) is None
        wait_until(lambda: world.readers.trouble, "the reason")
        assert world.readers.trouble == str(error)
        assert world.readers.find(7, 1.0) is None
        world.registry.answers |= {7: text_schema, 8: text_schema}
        assert isinstance(world.settled(7), Reader)
        assert isinstance(world.settled(8), Reader)
        wait_until(lambda: world.readers.trouble is None, "the end of the outage")


def test_one_schema_that_fails_does_not_hold_up_others() -> None:
    """A registry may fail for one schema only."""

    def fail() -> Schema:
        raise ServiceUnavailableError("only this one")

    with running() as world:
        world.registry.answers |= {7: fail, 8: text_schema}
        assert world.readers.find(7, 1.0) is None
        wait_until(lambda: isinstance(world.readers.find(8, 1.0), Reader), "the other one")
        assert world.readers.find(7, 1.0) is None


def test_whoever_reads_never_waits() -> None:
    """A registry that is slow holds up its thread only, and the end waits for no more than one answer."""
    with running() as world:
        world.registry.may_answer.clear()
        assert world.readers.find(7, 1.0) is None
        assert world.readers.find(8, 1.0) is None
