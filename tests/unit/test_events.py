"""Events on the wire: CloudEvents 1.0 binary mode, plain JSON, and whatever else a topic may hold."""

import contextlib
import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cloudevents.core.bindings import kafka
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.errors import InvalidEventError
from pipeline.wire.events import (
    CARRIED,
    MAX_DEPTH,
    REDRIVE,
    Coordinates,
    Event,
    EventAttributes,
    Redrive,
    decode,
    encode,
    job_named,
    record_digest,
)

SCHEMAS = Path(__file__).parents[2] / "docs" / "reference" / "schemas"
AT = Coordinates(topic="orders", partition=2, offset=40, timestamp_ms=1_700_000_000_000)
EVENT = Event(
    id="e-1",
    source="/orders",
    type="order-placed",
    time=datetime(2026, 1, 2, 3, 4, 5, 678, UTC),
    entity_id="customer-7",
    data=b'{"order": 1}',
    job_id="j-1",
    stage="check",
    submitted_at=1_700_000_000.25,
    traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-01",
)
REQUIRED = {"ce_specversion": b"1.0", "ce_id": b"1", "ce_source": b"/s", "ce_type": b"t"}


def read(
    value: bytes | None = b"{}", key: bytes | None = b"k", headers: dict[str, bytes | None] | None = None
) -> Event:
    return decode(key=key, value=value, headers=list((headers or {}).items()), coordinates=AT)


def test_the_wire_format_is_pinned() -> None:
    """The headers, key and value of an event are what other teams' consumers read."""
    key, value, headers = encode(EVENT)
    assert (key, value) == (b"customer-7", b'{"order": 1}')
    assert headers == (
        ("ce_specversion", b"1.0"),
        ("ce_id", b"e-1"),
        ("ce_source", b"/orders"),
        ("ce_type", b"order-placed"),
        ("ce_time", b"2026-01-02T03:04:05.000678Z"),
        ("ce_jobid", b"j-1"),
        ("ce_stage", b"check"),
        ("ce_submittedat", b"1700000000.25"),
        ("ce_traceparent", b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01"),
        ("content-type", b"application/json"),
        ("timestamp", b"1767323045.000678"),
        ("source", b"/orders"),
        ("traceparent", b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01"),
    )


def test_the_schema_of_an_event_is_reviewed() -> None:
    """A change of the attributes shows as a change of the schema that is checked in."""
    assert json.loads((SCHEMAS / "event.json").read_text()) == EventAttributes.model_json_schema()


def test_the_official_sdk_reads_what_is_written() -> None:
    """Any consumer that speaks CloudEvents understands these events."""
    key, value, headers = encode(EVENT)
    seen = kafka.from_binary(kafka.KafkaMessage(headers=dict(headers), key=key, value=value), JSONFormat())
    assert (seen.get_id(), seen.get_source(), seen.get_type()) == (EVENT.id, EVENT.source, EVENT.type)
    assert seen.get_time() == EVENT.time
    assert seen.get_data() == {"order": 1}
    assert seen.get_extension("jobid") == "j-1"


def test_what_the_official_sdk_writes_is_read() -> None:
    """Any producer that speaks CloudEvents can start a job."""
    attributes = {"id": "e-9", "source": "/shop", "type": "order-placed", "partitionkey": "customer-7"}
    attributes["datacontenttype"] = "application/json"
    sent = kafka.to_binary(CloudEvent(attributes, {"order": 9}), JSONFormat())
    assert isinstance(sent.key, str)
    event = decode(
        key=sent.key.encode(), value=sent.value, headers=list(sent.headers.items()), coordinates=AT
    )
    assert (event.id, event.source, event.entity_id) == ("e-9", "/shop", "customer-7")
    assert (json.loads(event.data), event.job_id) == ({"order": 9}, None)


_word = st.text(min_size=1, max_size=50)
_events = st.builds(
    Event,
    id=_word,
    source=_word,
    type=_word,
    time=st.datetimes(datetime(1971, 1, 1), datetime(2900, 1, 1), timezones=st.just(UTC)),
    entity_id=_word,
    data=st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    ).map(lambda value: json.dumps(value).encode()),
    job_id=st.none() | st.from_regex(r"[A-Za-z0-9._:-]{1,128}", fullmatch=True),
    stage=st.none() | st.just("extract"),
    submitted_at=st.none() | st.just(0.0) | st.floats(0.001, 1e11),
    traceparent=st.none() | st.from_regex(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", fullmatch=True),
    carried=st.dictionaries(st.sampled_from(CARRIED), st.from_regex(r"[!-~]{1,512}", fullmatch=True)),
)


@given(_events)
def test_every_event_survives_the_wire(event: Event) -> None:
    """A decoded event equals the encoded one, in every field."""
    key, value, headers = encode(event)
    assert decode(key=key, value=value, headers=headers, coordinates=AT) == replace(event, coordinates=AT)


def test_plain_json_is_an_event() -> None:
    """A producer that knows no CloudEvents is heard; its entity is the key."""
    event = read(b'{"a": 1}', b"customer-7", {"timestamp": b"1.5", "x": b"\xff"})
    assert (event.source, event.entity_id, event.data) == ("kafka:orders", "customer-7", b'{"a": 1}')
    assert event.time == datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)


def test_plain_json_read_again_is_the_same_event() -> None:
    """The id of a plain event depends on where it lies, so that a replay makes the same task."""
    assert read().id == read().id
    elsewhere = decode(key=b"k", value=b"{}", headers=None, coordinates=replace(AT, offset=41))
    assert read().id != elsewhere.id


def test_an_event_without_key_is_its_own_entity() -> None:
    """Without a key no two events are bound to one order."""
    assert read(key=None).entity_id == read(key=None).id
    assert read(key=b"", headers=dict(REQUIRED)).entity_id == "1"


def test_a_key_that_is_no_text_still_names_one_entity() -> None:
    """A key from a serializer for numbers is an entity like any other."""
    assert read(key=b"\xff\x00").entity_id == "ff00"


def test_a_trace_that_is_no_trace_is_dropped() -> None:
    """A malformed traceparent starts a new trace and costs no event."""
    assert read(headers={**REQUIRED, "ce_traceparent": b"zz"}).traceparent is None


def test_the_trace_of_a_producer_is_read_where_its_library_writes_it() -> None:
    """A plain header, on any event; what the event itself says comes first."""
    plain, own = (b"00-" + each * 32 + b"-" + b"b" * 16 + b"-01" for each in (b"c", b"a"))
    assert read(headers={"traceparent": plain}).traceparent == plain.decode()
    assert read(headers={**REQUIRED, "traceparent": plain}).traceparent == plain.decode()
    both: dict[str, bytes | None] = {**REQUIRED, "traceparent": plain, "ce_traceparent": own}
    assert read(headers=both).traceparent == own.decode()
    assert read(headers={"traceparent": b"00-zz"}).traceparent is None


def test_headers_of_other_tracers_are_carried_on() -> None:
    """ddtrace's and a tracestate, as they came; not what is too long or no text, and nothing else."""
    theirs = {"x-datadog-trace-id": b"42", "x-datadog-tags": b"_dd.p.dm=-1", "tracestate": b"dd=s:1"}
    bad: dict[str, bytes | None] = {"x-datadog-origin": b"\xff", "x-datadog-parent-id": b"1" * 513}
    event = read(headers={**REQUIRED, **theirs, **bad, "x-internal": b"1"})
    assert event.carried == {name: value.decode() for name, value in theirs.items()}
    assert set(theirs.items()) <= set(encode(event)[2])


def test_of_two_headers_with_one_name_the_last_counts() -> None:
    """As every Kafka client reads it."""
    headers = [*REQUIRED.items(), ("ce_id", b"2")]
    assert decode(key=None, value=b"{}", headers=headers, coordinates=AT).id == "2"


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"hello",
        b"{'a': 1}",
        b'{"a": 1,}',
        b"NaN",
        b"[Infinity]",
        b'"\xff"',
        b'"\\ud800"',
        b'\xef\xbb\xbf{"a": 1}',
        '{"a": 1}'.encode("utf-16"),
        b"1" * 5000,
        b"\x00" * 10,
        b"[" * 10_000,
        b"[" * 10_000 + b"]" * 10_000,
        b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    ],
    ids=lambda value: repr(value[:12]),
)
def test_what_is_not_json_is_refused(value: bytes) -> None:
    """No value, however broken or deep, does more than raise the one error."""
    with pytest.raises(InvalidEventError, match="the value is not JSON in UTF-8"):
        read(value)


def test_depth_is_bounded_where_it_says() -> None:
    """Data as deep as the bound passes, one deeper does not."""
    assert read(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)
    with pytest.raises(InvalidEventError, match="recursion limit"):
        read(b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1))


def test_a_record_without_value_is_refused() -> None:
    """A tombstone holds no data for a task."""
    with pytest.raises(InvalidEventError, match="the record has no value"):
        read(None, headers=dict(REQUIRED))


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({"ce_id": b"1"}, "ce_specversion: the header is missing; ce_source: the header is missing"),
        ({**REQUIRED, "ce_specversion": b"0.3"}, "ce_specversion: Input should be '1.0', it is '0.3'"),
        ({**REQUIRED, "ce_specversion": b"9"}, "ce_specversion"),
        ({**REQUIRED, "ce_id": b""}, "ce_id"),
        ({**REQUIRED, "ce_id": None}, "ce_id"),
        ({**REQUIRED, "ce_id": b"x" * 1025}, "ce_id"),
        ({**REQUIRED, "ce_source": b"\xff\xfe"}, "header ce_source is not UTF-8"),
        ({**REQUIRED, "ce_time": b"yesterday"}, "ce_time"),
        ({**REQUIRED, "ce_time": b"2026-01-01T00:00:00"}, "ce_time: Input should have timezone info"),
        ({**REQUIRED, "ce_jobid": b"a b"}, "ce_jobid"),
        ({**REQUIRED, "ce_jobid": b"x" * 129}, "ce_jobid"),
        ({**REQUIRED, "ce_submittedat": b"nan"}, "ce_submittedat"),
        ({**REQUIRED, "ce_submittedat": b"soon"}, "ce_submittedat"),
        ({**REQUIRED, "content-type": b"text/xml"}, "content-type is 'text/xml'"),
        ({"content-type": b"application/cloudevents+json; charset=utf-8"}, "neither data nor"),
    ],
    ids=str,
)
def test_broken_attributes_are_refused(headers: dict[str, bytes | None], reason: str) -> None:
    """Each fault is named with its header and value, so that the producer can mend it."""
    with pytest.raises(InvalidEventError) as caught:
        read(headers=headers)
    assert reason in str(caught.value)


TRACE = "00-" + "c" * 32 + "-" + "b" * 16 + "-01"
SCHEMA = {"type": "string", "optional": False}


def _as_connect_writes(text: str, *, schema: bool) -> bytes:
    """A header by Kafka Connect's JsonConverter, with schemas.enable or without."""
    return json.dumps({"schema": SCHEMA, "payload": text} if schema else text, separators=(",", ":")).encode()


@pytest.mark.parametrize("schema", [True, False])
def test_headers_that_connect_wrote_as_json_are_read(schema: bool) -> None:
    """Its JsonConverter quotes every header: the event and its trace are those of the plain headers."""
    plain = {**REQUIRED, "ce_time": b"2026-01-02T03:04:05Z", "content-type": b"application/json"}
    plain["traceparent"] = TRACE.encode()
    quoted: dict[str, bytes | None] = {
        name: _as_connect_writes(text.decode(), schema=schema) for name, text in plain.items()
    }
    assert read(headers=quoted) == read(headers={**plain})
    assert read(headers=quoted).traceparent == TRACE
    assert job_named("s", quoted.items(), "t") == job_named("s", plain.items(), "t")
    only: dict[str, bytes | None] = {"traceparent": quoted["traceparent"]}
    assert read(headers=only).traceparent == TRACE


def test_quotes_of_a_producer_stay() -> None:
    """Where the version has no quotes, those of an id are a part of it."""
    assert read(headers={**REQUIRED, "ce_id": b'"1"'}).id == '"1"'


#: Headers as tools write them, none of which says anything about the event.
FOREIGN: list[tuple[str, bytes | None]] = [
    # Kafka Connect: its dead letter queue, and a JsonConverter's header without a schema.
    ("__connect.errors.topic", b"orders"),
    ("__connect.errors.exception.stacktrace", None),
    ("__connect.errors.offset", b"12"),
    ("tenant", b'"a"'),
    # Kafka Streams: numbers and times in binary, names twice.
    ("__streams.errors.offset.bin", b"\x00\x00\x01\x8c\xff"),
    ("window", b"\xff\xfe\x00"),
    ("window", b"\x00"),
    # Spring: the types of its headers and payload.
    ("__TypeId__", b"com.example.Order"),
    ("spring_json_header_types", b'{"tenant":"java.lang.String"}'),
    ("kafka_dlt-exception-stacktrace", b"java.lang.RuntimeException: \xc3"),
    # Debezium: its outbox, and the context of its source.
    ("id", b"7b3c7c1e"),
    ("eventType", b"OrderPlaced"),
    ("__debezium.context.task", b"0"),
    # Headers of this project and of others that are broken or hold nothing.
    ("content-type", b"\xff"),
    ("traceparent", b'"00-'),
    ("traceparent", None),
    ("tracestate", b"\x00\xff"),
    ("ce_tenant", None),
    ("ce_tenant", b"\xff"),
    ("", b""),
]
ANY_HEADER = st.tuples(st.text(max_size=12), st.none() | st.binary(max_size=12))


@given(st.lists(st.sampled_from(FOREIGN) | ANY_HEADER, max_size=30))
@example(FOREIGN)
def test_headers_of_other_tools_change_no_event(foreign: list[tuple[str, bytes | None]]) -> None:
    """With any of them a plain event and a CloudEvent are those that they are without."""
    for own in ([], [("ce_time", None), ("content-type", None), *REQUIRED.items()]):
        event = decode(key=b"k", value=b"{}", headers=[*foreign, *own], coordinates=AT)
        expected = decode(key=b"k", value=b"{}", headers=own, coordinates=AT)
        assert replace(event, carried={}) == expected


@given(
    st.none() | st.binary(),
    st.none() | st.binary(),
    st.lists(
        st.tuples(st.sampled_from([*REQUIRED, "ce_time", "content-type", "x"]), st.none() | st.binary())
    ),
)
def test_nothing_on_a_topic_can_stop_the_reader(
    key: bytes | None, value: bytes | None, headers: list[tuple[str, bytes | None]]
) -> None:
    """A record of any bytes is an event or an InvalidEventError."""
    with contextlib.suppress(InvalidEventError):
        decode(key=key, value=value, headers=headers, coordinates=AT)


REDRIVEN = Redrive(
    generation=2,
    topic="orders",
    partition=1,
    offset=7,
    timestamp_ms=1_600_000_000_000,
    digest=record_digest(AT.topic, b"k", b"{}"),
)


def test_a_redriven_plain_event_is_the_event_it_was() -> None:
    """Its id comes from where it was read the first time, so that redriving twice makes no second task."""
    first = decode(
        key=b"k",
        value=b"{}",
        headers=[],
        coordinates=Coordinates(topic="orders", partition=1, offset=7, timestamp_ms=1_600_000_000_000),
    )
    again = read(headers=dict([REDRIVEN.header()]))
    assert (again.id, again.source, again.generation) == (first.id, first.source, 2)
    assert again.coordinates == AT
    assert first.generation == 0


def test_a_redriven_cloud_event_keeps_its_id() -> None:
    """And says how often it was redriven, which the bridge hands on to its tasks."""
    event = read(headers={**REQUIRED, **dict([REDRIVEN.header()])})
    assert (event.id, event.generation) == ("1", 2)


def test_a_redrive_of_another_record_is_not_obeyed() -> None:
    """A tool that keeps headers copied it: obeyed, all plain events that it made would be one event."""
    header: dict[str, bytes | None] = dict([REDRIVEN.header()])
    assert read(headers=header).generation == 2
    assert read(headers=header, value=b"7").generation == 0
    assert read(headers=header, key=b"other").generation == 0
    assert read(headers=header, value=b"7").id != read(headers=header).id


@pytest.mark.parametrize("field", ["generation", "partition", "offset", "timestamp_ms"])
def test_a_redrive_beyond_all_bounds_is_not_obeyed(field: str) -> None:
    """Its generation is counted on, and recorded where numbers end."""
    facts = json.loads(REDRIVEN.header()[1]) | {field: 10**30}
    assert read(headers={REDRIVE: json.dumps(facts).encode()}).generation == 0


@pytest.mark.parametrize("moment", ["1e-200", "-1", "nan", "inf", "1e126", "253402300800", "1e400", "0.0001"])
def test_a_moment_that_a_service_cannot_hold_is_refused(moment: str) -> None:
    """At the door, with its header: DynamoDB would refuse the job's record."""
    with pytest.raises(InvalidEventError, match="ce_submittedat"):
        read(headers={**REQUIRED, "ce_submittedat": moment.encode()})
    assert read(headers={**REQUIRED, "ce_submittedat": b"1700000000.123"}).submitted_at == 1_700_000_000.123


@pytest.mark.parametrize("value", [None, b"", b"7", b"{}", b"\xff", b'{"generation": 0}', b"[" * 10_000])
def test_a_header_of_that_name_from_elsewhere_is_nothing(value: bytes | None) -> None:
    """Headers that are not of a redrive change nothing."""
    assert read(headers={REDRIVE: value}).generation == 0
