"""Messages of clients that were not converted, written by kombu's own SQS transport."""

import base64
import json
import sys
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kombu.transport.SQS import Channel

from pipeline.errors import InvalidInputError
from pipeline.results.chordparts import membership
from pipeline.transport.envelope import Envelope, open_envelope
from pipeline.transport.publishing import to_sqs
from tests.builders import task_body
from tests.stock import stock_app

URL = "http://localhost:1/queue/tasks.fifo"


class Wire:
    """Keeps what kombu sends, in place of SQS."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []

    def send_message(self, **message: Any) -> None:
        self.sent.append(message)

    def get_queue_attributes(self, **_: Any) -> dict[str, Any]:
        return {"Attributes": {"ApproximateNumberOfMessages": "0"}}


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Wire:
    wire = Wire()
    monkeypatch.setattr(Channel, "sqs", lambda *_, **__: wire)
    return wire


def sent(wire: Wire, *args: Any, conf: dict[str, Any] | None = None, **options: Any) -> str:
    """The text that a stock client sends to SQS."""
    stock_app(URL, **(conf or {})).send_task("note", args, retry=False, **options)
    return str(wire.sent[-1]["MessageBody"])


def opened(wire: Wire, *args: Any, conf: dict[str, Any] | None = None, **options: Any) -> Envelope:
    return open_envelope(sent(wire, *args, conf=conf, **options))


def encoded(text: str | bytes) -> str:
    return base64.b64encode(text.encode() if isinstance(text, str) else text).decode()


#: The settings of a client that writes each form.
FORMS: dict[str, dict[str, Any]] = {
    "protocol 2": {},
    "protocol 1": {"task_protocol": 1},
    "JSON around Base64": {"broker_transport_options": {"sqs_base64_encoding": False}},
    "no Base64": {"broker_transport_options": {"sqs_base64_encoding": False, "body_encoding": None}},
}


@pytest.mark.parametrize("name", FORMS)
def test_what_a_stock_client_sends_is_the_same_task(wire: Wire, name: str) -> None:
    """Its arguments, id, options, callbacks and group, in each form that kombu writes."""
    task = opened(
        wire,
        "漢",
        {"n": 1},
        conf=FORMS[name],
        task_id="t-1",
        countdown=60,
        expires=600,
        time_limit=9,
        soft_time_limit=8,
        link_error=stock_app(URL).signature("oops"),
        MessageGroupId="customer-7",
        MessageDeduplicationId="d-1",
    )
    assert (task.task_id, task.task_name, task.args, task.kwargs) == ("t-1", "note", ["漢", {"n": 1}], {})
    assert task.eta is not None
    assert task.eta.endswith("+00:00")
    assert task.headers["expires"] is not None
    assert task.headers["timelimit"] == [9, 8]
    assert (task.headers["root_id"], task.headers["retries"]) == ("t-1", 0)
    assert "漢" in task.headers["argsrepr"]
    assert [errback["task"] for errback in task.embed["errbacks"]] == ["oops"]
    assert task.headers["message_group"] == "customer-7"
    delivered = task.delivered_as("tag", redelivered=False)
    assert (
        delivered["properties"].keys() & {"body_encoding", "MessageGroupId", "MessageDeduplicationId"}
        == set()
    )
    assert json.loads(delivered["body"])[0] == ["漢", {"n": 1}]


def test_a_task_without_a_group_names_none(wire: Wire) -> None:
    """kombu puts it in the group "default", which nobody chose: what it publishes is not put there."""
    assert opened(wire, 1).headers.get("message_group") is None
    assert wire.sent[-1]["MessageGroupId"] == "default"


@pytest.mark.parametrize("name", ["protocol 2", "protocol 1"])
def test_a_header_task_keeps_its_place_in_the_chord(wire: Wire, name: str) -> None:
    """The results of a chord are in the order of its header."""
    body = stock_app(URL).signature("sum", task_id="b-1")
    task = opened(wire, 1, conf=FORMS[name], group_id="g-1", group_index=3, chord=body)
    place = membership(task.headers, task.embed)
    assert place
    assert (place.part.chord_id, place.part.index) == ("g-1", 3)


@pytest.mark.parametrize("name", ["protocol 2", "protocol 1"])
def test_shown_arguments_tell_no_secret(wire: Wire, name: str) -> None:
    """A stock client writes them into the headers as they are; Flower shows them redacted."""
    task = opened(wire, {"apiKey": "hunter2"}, conf=FORMS[name])
    assert task.args == [{"apiKey": "hunter2"}]
    assert "hunter2" not in json.dumps(dict(task.headers))


def test_the_message_group_of_a_stock_client_counts(wire: Wire) -> None:
    """A header that it carried from elsewhere does not: SQS has the message in the group of the option."""
    task = opened(wire, 1, headers={"message_group": "other"}, MessageGroupId="customer-7")
    assert task.headers["message_group"] == "customer-7"


@pytest.mark.parametrize(
    ("options", "conf", "why"),
    [
        ({"serializer": "pickle"}, {}, "content-type is 'application/x-python-serialize'"),
        ({"serializer": "yaml"}, {}, "content-type is 'application/x-yaml'"),
        ({"compression": "gzip"}, {}, "compressed (application/x-gzip)"),
        ({"serializer": "pickle"}, {"task_protocol": 1}, "content-type is 'application/x-python-serialize'"),
        ({"compression": "gzip"}, {"task_protocol": 1}, "compressed (application/x-gzip)"),
    ],
)
def test_what_is_no_plain_json_is_refused(
    wire: Wire, options: dict[str, Any], conf: dict[str, Any], why: str
) -> None:
    """Nothing is unpickled or decompressed to find out more about it."""
    with pytest.raises(InvalidInputError) as refused:
        opened(wire, 1, conf=conf, **options)
    assert why in str(refused.value)
    assert str(refused.value).startswith("not a Celery message: ")


def body_1(**fields: Any) -> str:
    return json.dumps({"task": "note", "id": "t-1", "args": [1], "kwargs": {}, **fields})


NAIVE = "2030-01-01T00:00:00"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("eyJ", "the message is not Base64"),
        ("eyJib2R5Ijo*", "the message is not Base64"),
        (encoded(b'{"a\xff'), "the message is not Base64 of text"),
        (encoded('{"body'), "the message is not JSON"),
        (encoded("[]"), "the message is not JSON"),
        (encoded(encoded(task_body({"id": "t-1", "task": "note"}))), "the message is not JSON"),
        (task_body({"id": "t"}, properties={"body_encoding": "base64"}), "its body is not Base64"),
        (task_body({}, body=5, properties={"body_encoding": "base64"}), "body: "),
        (task_body({}, body=body_1(id=7)), "headers.id: "),
        (task_body({}, body=body_1(id="")), "headers.id: "),
        (task_body({}, body=body_1(task=None)), "headers.task: "),
        (task_body({}, body=body_1(args={"a": 1})), "wrong type"),
        (task_body({}, body=body_1(kwargs=[1])), "wrong type"),
        (task_body({}, body=body_1(eta=5)), "headers.eta: "),
        (task_body({}, body=body_1(retries=-1)), "headers.retries: "),
        (task_body({}, body=body_1(timelimit=5)), "headers.timelimit: "),
        (task_body({}, body=body_1(taskset=["g"])), "headers.group: "),
        (task_body({}, body=body_1(utc=False, eta=NAIVE)), "eta is local time"),
        (task_body({}, body=body_1(utc=False, expires=NAIVE)), "expires is local time"),
        (task_body({}, body=body_1(id="\ud800")), "not Unicode"),
        (task_body({}, body="{}"), "headers.task: "),
        (task_body({}, body="[" * 900 + "]" * 900), "headers.task: "),
        (task_body({"id": "t", "task": "note"}, properties={"MessageGroupId": 7}), "headers.message_group: "),
    ],
)
def test_a_broken_message_is_refused_with_its_reason(text: str, why: str) -> None:
    """As one error; it says where it is wrong."""
    with pytest.raises(InvalidInputError) as refused:
        open_envelope(text)
    assert why in str(refused.value)


def test_a_moment_in_utc_needs_no_zone() -> None:
    """Protocol 1 says so in a field of its own."""
    assert open_envelope(task_body({}, body=body_1(utc=True, eta=NAIVE))).eta == NAIVE


def test_arguments_that_are_nested_deep_are_accepted_or_refused() -> None:
    """Never another error, however Python counts the depth."""
    limit = sys.getrecursionlimit()
    for depth in (50, *range(limit - 200, limit), 5_000):
        with suppress(InvalidInputError):
            open_envelope(
                task_body({}, body=f'{{"task": "note", "id": "t", "args": [{"[" * depth}{"]" * depth}]}}')
            )


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)
FIELDS = st.sampled_from(
    ["task", "id", "args", "kwargs", "eta", "utc", "retries", "timelimit", "taskset", "x"]
)


@given(
    fields=st.dictionaries(FIELDS, JSON) | JSON,
    headers=st.dictionaries(st.sampled_from(["task", "compression", "argsrepr"]), JSON) | JSON,
    properties=st.dictionaries(st.sampled_from(["MessageGroupId", "body_encoding"]), JSON) | JSON,
    doubly=st.booleans(),
)
def test_any_message_is_opened_or_refused(fields: Any, headers: Any, properties: Any, doubly: bool) -> None:
    """Never another error, with any value of any key."""
    body = json.dumps(fields)
    if doubly and isinstance(properties, dict):
        body, properties = encoded(body), properties | {"body_encoding": "base64"}
    text = json.dumps({"body": body, "headers": headers, "properties": properties})
    with suppress(InvalidInputError):
        open_envelope(encoded(text) if doubly else text)


@given(text=st.text().map(lambda text: "eyJ" + text) | st.binary().map(lambda data: encoded(b'{"' + data)))
def test_any_base64_is_opened_or_refused(text: str) -> None:
    """Never another error."""
    with suppress(InvalidInputError):
        open_envelope(text)


def test_a_stock_worker_reads_the_tasks_of_a_converted_publisher(wire: Wire) -> None:
    """For the way back: kombu's own SQS transport makes the same message of it."""
    message = {
        "body": json.dumps(
            [["漢", 1], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]
        ),
        "headers": {"id": "t-1", "task": "note", "argsrepr": "", "kwargsrepr": "", "eta": None},
        "properties": {"delivery_info": {"exchange": "", "routing_key": "tasks.fifo"}, "delivery_tag": "d"},
        "content-type": "application/json",
        "content-encoding": "utf-8",
    }
    body = to_sqs("tasks.fifo", message).body
    channel = stock_app(URL).connection().channel()
    read = channel._message_to_python({"Body": body, "ReceiptHandle": "r"}, "tasks.fifo", URL)
    found = channel.message_to_python(read)
    assert (found.headers["id"], found.headers["task"]) == ("t-1", "note")
    assert found.decode()[0] == ["漢", 1]
