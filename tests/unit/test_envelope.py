"""Validation of received messages: nothing on the queue can end the worker's event loop."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kombu.transport.virtual import Channel

from pipeline.errors import InvalidInputError
from pipeline.transport.envelope import PARSED, open_envelope
from pipeline.transport.kombutransport import Message
from tests.builders import task_body


def envelope(more: Any = None, **changes: Any) -> str:
    """A valid message, with more headers and with changes (``task_body``)."""
    return task_body({"id": "t-1", "task": "note", **(more or {})}, [[1], {}, {}], **changes)


def test_a_celery_message_is_opened() -> None:
    """The fields that Celery reads are available, and the payload that kombu expects."""
    opened = open_envelope(envelope())
    assert (opened.task_id, opened.task_name, opened.args) == ("t-1", "note", [1])
    payload = opened.delivered_as("tag", redelivered=True)
    assert payload["properties"] == {"delivery_info": {"redelivered": True}, "delivery_tag": "tag"}
    assert payload[PARSED] == [[1], {}, {}]


def test_headers_of_others_pass_unseen() -> None:
    """Custom headers, and those of Celery that nobody reads before the run."""
    headers = {"mine": {"a": [1]}, "origin": "x@y", "timelimit": [None, None], "eta": None, "retries": 3}
    assert open_envelope(envelope(headers)).headers == {"id": "t-1", "task": "note", **headers}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not JSON"),
        ("no json", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("null", "it: "),
        ("[]", "it: "),
        ("{}", "body: "),
        (envelope(body=...), "body: "),
        (envelope(body={"args": []}), "body: "),
        (envelope(body="[[1], {}, {}"), "its body is not JSON"),
        (envelope(body="[" * 100_000 + "]" * 100_000), "its body is not JSON"),
        (envelope(body="[[1], {}]"), "not [args, kwargs, embed]"),
        (envelope(body="{}"), "not [args, kwargs, embed]"),
        (envelope(body="[{}, {}, {}]"), "wrong type"),
        (envelope(body="[[], [], {}]"), "wrong type"),
        (envelope(body="[[], {}, 3]"), "wrong type"),
        (envelope(headers=[]), "headers: "),
        (envelope(properties=...), "properties: "),
        (envelope(properties={"delivery_info": "x"}), "properties.delivery_info: "),
        (envelope(properties={"body_encoding": "rot13"}), "properties.body_encoding: "),
        (envelope(content_type="application/x-python-serialize"), "content-type"),
        (envelope(content_encoding="rot13"), "content-encoding"),
        (envelope({"id": ""}), "headers.id: "),
        (envelope({"id": 7}), "headers.id: "),
        (envelope({"id": "x" * 300}), "headers.id: "),
        (envelope({"id": None}), "headers.id: "),
        (envelope({"task": ["a"]}), "headers.task: "),
        (envelope({"eta": 5}), "headers.eta: "),
        (envelope({"eta": ""}), "headers.eta: "),
        (envelope({"expires": {"a": 1}}), "headers.expires: "),
        (envelope({"retries": "many"}), "headers.retries: "),
        (envelope({"retries": -1}), "headers.retries: "),
        (envelope({"timelimit": 5}), "headers.timelimit: "),
        (envelope({"timelimit": [1]}), "headers.timelimit: "),
        (envelope({"timelimit": ["a", None]}), "headers.timelimit"),
        (envelope({"timelimit": [float("nan"), None]}), "headers.timelimit"),
        (envelope({"stamped_headers": 5}), "headers.stamped_headers: "),
        (envelope({"compression": "gzip"}), "headers.compression: "),
        (envelope({"argsrepr": 5}), "headers.argsrepr: "),
        (envelope({"mine": "\ud800"}), "not Unicode"),
        (envelope({"id": "\udfff"}), "not Unicode"),
        (envelope(body='[["\ud800"], {}, {}]'), "not Unicode"),
    ],
)
def test_what_is_no_celery_message_is_refused_with_its_reason(text: str, why: str) -> None:
    """As one error that says where it is wrong."""
    with pytest.raises(InvalidInputError) as refused:
        open_envelope(text)
    assert str(refused.value).startswith("not a Celery message: ")
    assert why in str(refused.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(text=st.text() | JSON.map(json.dumps))
def test_any_text_is_opened_or_refused(text: str) -> None:
    """Never another error."""
    with suppress(InvalidInputError):
        open_envelope(text)


@given(headers=st.dictionaries(st.sampled_from(["id", "task", "eta", "retries", "x"]), JSON), body=JSON)
def test_what_is_opened_can_be_delivered(headers: dict[str, Any], body: Any) -> None:
    """kombu makes a message of it without an error, whatever else is in it."""
    try:
        opened = open_envelope(envelope(headers, body=json.dumps(body)))
        payload = opened.delivered_as("tag", redelivered=False)
    except InvalidInputError:
        return
    message = Message(payload, channel=Channel.__new__(Channel))
    assert message.payload is payload[PARSED]
    message.body.decode()


def test_data_that_looks_like_one_of_kombus_types_is_not_decoded() -> None:
    """kombu's own decoder would refuse it."""
    body = '[[{"__type__": "datetime", "__value__": "never"}], {}, {}]'
    assert open_envelope(envelope(body=body)).args == [{"__type__": "datetime", "__value__": "never"}]


def test_whole_characters_that_json_escapes_in_two_halves_are_accepted() -> None:
    """A client may write 🦊 as two escapes."""
    assert open_envelope(envelope({"mine": "🦊"})).headers["mine"] == "🦊"
