"""References to data on S3, and the messages and events that have them in place of the data."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from pipeline.errors import InvalidEventError, InvalidInputError
from pipeline.sqs import MAX_MESSAGE_BYTES, OutgoingMessage
from pipeline.transport.envelope import open_envelope
from pipeline.wire.events import Coordinates, Event, decode, encode
from pipeline.wire.plans import Route
from pipeline.wire.references import (
    REFERENCE_TYPE,
    Reference,
    ReferencedBody,
    from_text,
    to_text,
)
from pipeline.wire.taskmessage import (
    ATTRIBUTE_ROOM,
    for_event,
    for_gather,
    for_part,
    read_header,
    sealed_header,
)

AT = Coordinates(topic="orders", partition=0, offset=7, timestamp_ms=1_700_000_000_000)
REFERENCE = Reference.to(b'{"a": 1}', service="shop", role="event", id="e-1")
EVENT = Event(
    id="e-1",
    source="/shop/price",
    type="orders",
    time=datetime(2026, 1, 1, tzinfo=UTC),
    entity_id="o-1",
    data=b"",
    reference=REFERENCE,
    bucket="payloads",
    coordinates=AT,
)
ROUTE = Route(name="mail", consumes="orders", emits=None, is_split=False, ordered=False, queue=None)


def test_the_key_follows_from_the_data() -> None:
    """Of one id and one content always the same, and no two contents share one."""
    again = Reference.to(b'{"a": 1}', service="shop", role="event", id="e-1")
    assert again == REFERENCE
    assert REFERENCE.key == f"shop/event/e-1/{REFERENCE.sha256}"
    assert Reference.to(b'{"a": 2}', service="shop", role="event", id="e-1").key != REFERENCE.key


def test_a_uri_names_bucket_and_reference() -> None:
    """It is read back as it was written."""
    assert Reference.of_uri(REFERENCE.uri("payloads")) == ("payloads", REFERENCE)


@pytest.mark.parametrize(
    "uri",
    [
        "https://example.org/data.json",
        "s3://payloads/shop/event/e-1",
        f"s3://payloads/shop/event/../../secrets/{'0' * 64}#size=1",
        f"s3://payloads/shop/other/e-1/{'0' * 64}#size=1",
        f"s3://payloads/shop/event/e-1/{'0' * 64}#size=999999999",
        f"s3://payloads/shop/event/e-1/{'0' * 64}#size=1\n",
        f"s3://../shop/event/e-1/{'0' * 64}#size=1",
    ],
)
def test_other_uris_are_no_references(uri: str) -> None:
    """Nothing outside can make up a key of another form."""
    assert Reference.of_uri(uri) is None


def test_a_text_is_data_or_a_reference() -> None:
    """No JSON text is taken for a reference."""
    assert from_text(to_text(REFERENCE)) == REFERENCE
    for data in ('"@{}"', "{}", "null", '["@"]'):
        assert from_text(to_text(data)) == data


def test_an_event_with_a_reference_has_an_empty_value_that_is_no_deletion() -> None:
    """Its attribute is CloudEvents' own, and it is read back."""
    key, value, headers = encode(EVENT)
    assert value == b""
    assert dict(headers)["ce_dataref"] == REFERENCE.uri("payloads").encode()
    read = decode(key=key, value=value, headers=headers, coordinates=AT)
    assert (read.reference, read.bucket, read.data) == (REFERENCE, "payloads", b"")


def test_an_earlier_version_rejects_it() -> None:
    """Without the attribute, as a reader that does not know it: no task runs on no data."""
    key, value, headers = encode(EVENT)
    others = [(name, text) for name, text in headers if name != "ce_dataref"]
    with pytest.raises(InvalidEventError, match="not JSON"):
        decode(key=key, value=value, headers=others, coordinates=AT)


def test_a_dataref_beside_data_is_not_followed() -> None:
    """Producers of others may have both: the value is the data."""
    key, _, headers = encode(EVENT)
    read = decode(key=key, value=b'{"b": 2}', headers=headers, coordinates=AT)
    assert (read.reference, read.data) == (None, b'{"b": 2}')


def test_a_dataref_of_others_is_rejected_with_the_reason() -> None:
    """A worker fetches nothing from an address in an event."""
    key, value, headers = encode(EVENT)
    made = [(name, b"https://example.org/1" if name == "ce_dataref" else text) for name, text in headers]
    with pytest.raises(InvalidEventError, match=r"no reference .*example.org"):
        decode(key=key, value=value, headers=made, coordinates=AT)


def test_the_task_of_such_an_event_names_the_same_object() -> None:
    """The bridge fetches nothing; the message is small, and its header is proved as ever."""
    message = for_event(ROUTE, EVENT, "j-1", 1_700_000_000.0)
    envelope = open_envelope(message.to_sqs()["body"])
    assert envelope.reference == REFERENCE
    assert (envelope.args, envelope.kwargs, dict(envelope.embed)) == ([], {}, {"errbacks": None})
    header = read_header(envelope.headers)
    assert header is not None
    assert header.task_id == message.task_id
    assert "on S3" in envelope.headers["argsrepr"]
    part = for_part(ROUTE, header, 0, 1, REFERENCE, {})
    assert open_envelope(part.to_sqs()["body"]).reference == REFERENCE
    gather = for_gather(ROUTE, sealed_header(header, {}), 1, REFERENCE)
    assert open_envelope(gather.to_sqs()["body"]).reference == REFERENCE


def test_a_body_that_is_no_reference_is_refused() -> None:
    """With what is wrong in it."""
    body = for_event(ROUTE, EVENT, "j-1", 1_700_000_000.0).to_sqs()["body"]
    payload: dict[str, Any] = json.loads(body)
    assert payload["content-type"] == REFERENCE_TYPE
    for wrong in ("[[], {}, {}]", '{"reference": {"key": "any"}}', "no json"):
        with pytest.raises(InvalidInputError, match="no reference to data on S3"):
            open_envelope(json.dumps({**payload, "body": wrong}))


def test_a_version_before_references_refuses_the_message() -> None:
    """By its content type, which it names: nothing runs without its data."""
    payload = json.loads(for_event(ROUTE, EVENT, "j-1", 1_700_000_000.0).to_sqs()["body"])
    assert payload["content-type"] not in ("application/json",)


def test_a_message_fits_with_its_room() -> None:
    """To the byte."""
    message = OutgoingMessage(
        body="x" * (MAX_MESSAGE_BYTES - ATTRIBUTE_ROOM),
        group_id="g",
        deduplication_id="d",
        room=ATTRIBUTE_ROOM,
    )
    assert message.fits
    assert not replace(message, body=message.body + "x").fits


def test_errbacks_travel_beside_the_reference() -> None:
    """A worker publishes them without the arguments."""
    body = ReferencedBody(reference=REFERENCE, errbacks=[{"task": "told"}])
    assert ReferencedBody.read(body.text()) == body
