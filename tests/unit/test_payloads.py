"""What is put on S3, and what is not: data that fits costs no request."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from pipeline.errors import MessageRefusedError, ServiceError, ServiceUnavailableError
from pipeline.payloads import Payloads, PayloadsOffError, referenced, shrinking
from pipeline.payloads.bucket import bucket_need
from pipeline.payloads.events import LARGEST_VALUE
from pipeline.settings import Settings
from pipeline.sqs import MAX_MESSAGE_BYTES, OutgoingMessage, SqsQueue
from pipeline.transport.envelope import open_envelope
from pipeline.wire.events import Event
from pipeline.wire.plans import Route
from pipeline.wire.taskmessage import for_event, read_header
from tests.unit.test_translator import SETTINGS

ROUTE = Route(name="mail", consumes="orders", emits=None, is_split=False, ordered=False, queue=None)


class Store:
    """The requests to S3."""

    def __init__(self) -> None:
        self.puts: list[tuple[str, bytes]] = []
        self.fails: Exception | None = None

    def put_object(self, *, Bucket: str, Key: str, Body: bytes, **_: Any) -> None:  # noqa: N803 - boto3's names
        if self.fails:
            raise self.fails
        self.puts.append((f"{Bucket}/{Key}", Body))


class Queue:
    """The requests to SQS."""

    def __init__(self) -> None:
        self.sent: list[Any] = []

    def send_message_batch(self, *, QueueUrl: str, Entries: list[Any]) -> dict[str, Any]:  # noqa: N803 - as above
        self.sent += Entries
        return {"Successful": [{"Id": each["Id"]} for each in Entries]}


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    store = Store()
    monkeypatch.setattr("pipeline.payloads.store.s3_client", lambda: store)
    return store


def _settings(bucket: str | None = "payloads") -> Settings:
    return SETTINGS.model_copy(update={"payload_bucket": bucket})


def _event(size: int) -> Event:
    return Event(
        id="e-1",
        source="/post/read",
        type="orders",
        time=datetime(2026, 1, 1, tzinfo=UTC),
        entity_id="o-1",
        data=json.dumps("x" * (size - 2)).encode(),
    )


def _message(size: int) -> OutgoingMessage:
    return OutgoingMessage(**for_event(ROUTE, _event(size), "j-1", 1_700_000_000.0).to_sqs())


def _send(message: OutgoingMessage, settings: Settings) -> tuple[Queue, ServiceError | None]:
    client = Queue()
    queue = SqsQueue(cast("Any", client), "https://sqs/1/tasks.fifo", shrinking(Payloads(settings)))
    (error,) = queue.send([message])
    return client, error


def test_what_fits_makes_no_request_to_s3(store: Store) -> None:
    """Events and messages up to the byte, whatever the setting."""
    room = MAX_MESSAGE_BYTES - _message(2).size - _message(2).room
    client, error = _send(_message(room - 1_000), _settings())
    assert (error, len(client.sent)) == (None, 1)
    event = _event(LARGEST_VALUE)
    assert referenced(Payloads(_settings()), event) is event
    assert not store.puts


def test_a_large_task_is_put_and_named(store: Store) -> None:
    """One request, before the send; the message proves itself as before."""
    message = _message(2_000_000)
    client, error = _send(message, _settings())
    assert error is None
    ((key, data),) = store.puts
    assert data == _event(2_000_000).data
    (entry,) = client.sent
    envelope = open_envelope(entry["MessageBody"])
    assert envelope.reference is not None
    assert key == f"payloads/{envelope.reference.key}"
    header = read_header(envelope.headers)
    assert header is not None
    assert header.task_id == entry["MessageDeduplicationId"] == envelope.reference.id
    _send(message, _settings())
    assert store.puts[0] == store.puts[1], "a repetition overwrites the object with itself"


def test_a_large_event_is_put_and_named(store: Store) -> None:
    """Without a bucket it is left to the topic, which may take more than others."""
    event = _event(LARGEST_VALUE + 1)
    assert referenced(Payloads(_settings(None)), event) is event
    kept = referenced(Payloads(_settings()), event)
    assert (kept.data, kept.bucket) == (b"", "payloads")
    assert [data for _, data in store.puts] == [event.data]
    assert replace(kept, data=event.data, reference=None, bucket=None) == event


def test_without_a_bucket_a_large_message_is_refused(store: Store) -> None:
    """Its reason names the sizes, and the setting."""
    client, error = _send(_message(2_000_000), _settings(None))
    assert isinstance(error, MessageRefusedError)
    assert "SQS takes 1048576" in str(error)
    assert "set PAYLOAD_BUCKET" in str(error)
    assert not client.sent
    assert not store.puts


def test_s3_away_holds_up_this_message_only(store: Store) -> None:
    """The others are sent; this one is to be sent again."""
    store.fails = OSError("connection refused")
    client = Queue()
    queue = SqsQueue(cast("Any", client), "https://sqs/1/tasks.fifo", shrinking(Payloads(_settings())))
    small = OutgoingMessage(body="{}", group_id="g", deduplication_id="d")
    first, second = queue.send([_message(2_000_000), small])
    assert isinstance(first, ServiceUnavailableError)
    assert second is None
    assert len(client.sent) == 1


def test_no_bucket_is_needed_without_the_setting() -> None:
    """And with it, its rule outlives all that may name an object."""
    assert bucket_need(_settings(None)) is None
    need = bucket_need(_settings().model_copy(update={"job_expiry_days": 60}))
    assert need is not None
    assert (need.days, need.prefix) == (88, "post/")
    with pytest.raises(PayloadsOffError):
        Payloads(_settings(None)).put("task", "t-1", b"{}")
