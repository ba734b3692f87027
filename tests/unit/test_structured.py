"""CloudEvents in structured mode are the same events as in binary mode."""

import base64
import contextlib
import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from cloudevents.core.bindings import kafka
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import InvalidEventError
from pipeline.wire.events import Coordinates, Event, decode

AT = Coordinates(topic="orders", partition=1, offset=7, timestamp_ms=1_700_000_000_000)
EVENT: dict[str, Any] = {"specversion": "1.0", "id": "e-1", "source": "/erp", "type": "placed"}
STRUCTURED = b"application/cloudevents+json; charset=utf-8"

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def read(value: bytes | dict[str, Any], media: bytes = STRUCTURED, key: bytes | None = b"ada") -> Event:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return decode(key=key, value=raw, headers=[("Content-Type", media)], coordinates=AT)


@settings(max_examples=50)
@given(st.dictionaries(st.text(), JSON, max_size=3))
def test_both_modes_of_another_implementation_are_one_event(data: Any) -> None:
    """As the official SDK writes them: with the same id, and so the same job and tasks."""
    attributes = EVENT | {
        "time": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        "datacontenttype": "application/json",
        "region": "eu",
    }
    event = CloudEvent(attributes, data)
    both = []
    for write in (kafka.to_structured, kafka.to_binary):
        message = write(event, JSONFormat(), key_mapper=lambda _: "ada")
        headers = [(name, bytes(value)) for name, value in message.headers.items()]
        both.append(decode(key=b"ada", value=bytes(message.value), headers=headers, coordinates=AT))
    structured, binary = both
    assert json.loads(structured.data) == json.loads(binary.data) == data
    assert replace(structured, data=b"") == replace(binary, data=b"")
    assert structured.attributes["region"] == "eu"


def test_data_is_kept_as_it_stands() -> None:
    """No number loses a digit, and no space is lost; of two members with one name the last counts."""
    long = "9" * 4_000
    data = f'{{ "price" : 0.10000000000000000001, "big": {long}, "data": "no" }}'
    value = f'\n{{"data": [1, {{"data": "}}"}}], {json.dumps(EVENT)[1:-1]} , "data" : {data} , "y": true }} '
    assert read(value.encode()).data == data.encode()


def test_data_in_base64_is_decoded() -> None:
    """It must be JSON, as all data of stages."""
    packed = base64.b64encode(b'{"a": 1}').decode()
    assert read(EVENT | {"data_base64": packed}).data == b'{"a": 1}'


def test_an_event_without_a_key_is_its_own_entity() -> None:
    """As in binary mode."""
    assert read(EVENT | {"data": 1}, key=None).entity_id == "e-1"


def test_attributes_are_text_as_headers_are() -> None:
    """Extensions may be numbers and booleans; a member without a value is none."""
    event = read(EVENT | {"data": 1, "retry": True, "shard": 7, "subject": None})
    assert event.attributes == EVENT | {"retry": "true", "shard": "7"}


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ([EVENT], "the value is no JSON object"),
        (EVENT, "neither data nor data_base64"),
        (EVENT | {"data": 1, "data_base64": "MQ=="}, "data and data_base64"),
        (EVENT | {"data_base64": "?"}, "data_base64 cannot be decoded"),
        (EVENT | {"data_base64": 7}, "data_base64 cannot be decoded"),
        (EVENT | {"data_base64": "/w=="}, "not JSON in UTF-8"),
        (EVENT | {"data": "x", "datacontenttype": "text/plain"}, "datacontenttype is 'text/plain'"),
        ({"data": 1}, "specversion: the attribute is missing"),
        ({"data": 1, "id": "1"}, "source: the attribute is missing"),
        (EVENT | {"data": 1, "specversion": "0.3"}, "specversion: Input should be '1.0'"),
        (EVENT | {"data": 1, "id": ""}, "id: "),
        (EVENT | {"data": 1, "id": {"a": 1}}, "the attribute 'id' is no text"),
        (EVENT | {"data": 1, "jobid": "a b"}, "jobid: "),
    ],
)
def test_what_is_no_event_is_refused(value: Any, reason: str) -> None:
    """Each fault is named, so that the producer can mend it."""
    with pytest.raises(InvalidEventError) as caught:
        read(json.dumps(value).encode())
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("media", "reason"),
    [
        (b"application/cloudevents-batch+json", "Send each event in a record of its own"),
        (b"application/cloudevents+avro", "Send application/cloudevents+json, or binary mode"),
    ],
)
def test_other_formats_of_cloudevents_are_refused(media: bytes, reason: str) -> None:
    """The reason says what to send."""
    with pytest.raises(InvalidEventError) as caught:
        read(EVENT | {"data": 1}, media)
    assert reason in str(caught.value)


def test_a_job_is_believed_as_in_binary_mode() -> None:
    """Only of the stage that emits to the topic: members are written by anybody."""
    claims = {"jobid": "j-1", "stage": "price", "source": "/shop/price", "type": "order-priced", "data": 1}
    event = read(EVENT | claims)
    assert event.job_in("shop", "order-priced") == ("j-1", False)
    assert event.job_in("shop", "order-placed")[1]


@given(st.binary() | JSON.map(lambda data: json.dumps(data).encode()))
def test_nothing_on_a_topic_can_stop_the_reader(value: bytes) -> None:
    """A record of any bytes is an event or an InvalidEventError."""
    with contextlib.suppress(InvalidEventError):
        read(value)
