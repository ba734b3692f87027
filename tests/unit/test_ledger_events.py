"""Error events: their contents, and that they are never too large to be written."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from pipeline.errors import MessageRefusedError, ServiceRefusedError
from pipeline.kafka import OutgoingRecord
from pipeline.ledger.events import emit_errors, error_record
from pipeline.settings import Settings, load_settings
from pipeline.wire import events, failure
from pipeline.wire.failure import ErrorEvent, decode_error_event, error_event_schema

SCHEMA = Path(__file__).parents[2] / "docs" / "reference" / "schemas" / "error-event.json"
ERROR = ErrorEvent(
    kind="task", service="shop", error="ValueError", reason="no", failed_at=1.5, entity_id="ada", data="{}"
)


@pytest.fixture
def settings() -> Settings:
    return load_settings(
        {
            "SERVICE_NAME": "shop",
            "KAFKA_BOOTSTRAP_SERVERS": "x:1",
            "KAFKA_CONSUMER_GROUP": "shop",
            "SQS_TASK_QUEUE_URL": "http://x/1/tasks.fifo",
            "SQS_DLQ_URL": "http://x/1/dlq.fifo",
        }
    )


class Topic:
    """An errors topic that refuses what is larger than it takes, or all."""

    def __init__(self, largest: int = 10_000_000, refuses: bool = False) -> None:
        self.records: list[OutgoingRecord] = []
        self._largest = largest
        self._refuses = refuses

    def emit(self, records: Sequence[OutgoingRecord]) -> list[Exception | None]:
        return [self._take(record) for record in records]

    def _take(self, record: OutgoingRecord) -> Exception | None:
        if self._refuses:
            return ServiceRefusedError("access denied")
        if len(record.value or b"") > self._largest:
            return MessageRefusedError("too large")
        self.records.append(record)
        return None


def test_the_schema_of_an_error_event_is_reviewed() -> None:
    """A change of the event's data shows as a change of the schema that is checked in."""
    assert json.loads(SCHEMA.read_text()) == error_event_schema()


def test_an_error_event_fits_its_schema(settings: Settings) -> None:
    """Whoever reads the topic by the schema can read what is on it."""
    record = error_record(settings, "e-1", ERROR)
    Draft202012Validator(json.loads(SCHEMA.read_text())).validate(json.loads(record.value or b""))
    assert (record.topic, record.key) == ("shop-errors", b"ada")


OLD = (
    b'{"kind":"task","service":"shop","job_id":"j-1","stage":"sell","task_id":"t-1","part":"3/20",'
    b'"entity_id":"ada","attempts":4,"error":"ValueError","message":"no","traceback":"tb","worker":"celery@one",'
    b'"generation":2,"first_at":1.0,"failed_at":2.5,"queue":"tasks.fifo","group_id":"ada","topic":"orders",'
    b'"partition":2,"offset":40,"data":"{}","headers":{"id":"t-1"},"cut":false}'
)


def test_events_of_earlier_versions_are_read() -> None:
    """The names on the topic stay, in both directions."""
    event = decode_error_event(OLD)
    assert event is not None
    assert (event.reason, event.queue, event.part, event.headers) == (
        "no",
        "tasks.fifo",
        "3/20",
        {"id": "t-1"},
    )
    assert json.loads(event.encode()) == json.loads(OLD)
    assert decode_error_event(None) is None


@pytest.mark.parametrize("size", [10, 2_000_000])
def test_an_error_event_belongs_to_the_trace_of_what_failed(settings: Settings, size: int) -> None:
    """As its original headers have it, also when there is no room for them; what is no trace is left out."""
    trace, beside = "00-" + "a" * 32 + "-" + "b" * 16 + "-01", "dd=s:1"
    traced = replace(ERROR, headers={"traceparent": trace, "tracestate": beside}, data="\x01" * size)
    headers = dict(error_record(settings, "e-1", traced).headers)
    assert (headers["traceparent"], headers["tracestate"]) == (trace.encode(), beside.encode())
    odd = replace(ERROR, headers={"traceparent": ["no", 1]})
    assert "traceparent" not in dict(error_record(settings, "e-1", odd).headers)


def test_no_error_event_is_larger_than_its_topic_takes(settings: Settings) -> None:
    """Control characters become six times as long in JSON; then the data is cut, and the event says so."""
    huge = replace(ERROR, data="\x01" * 2_000_000, entity_id="k" * 1_000_000)
    record = error_record(settings, "e-1", huge)
    assert len(record.value or b"") < failure.ERROR_LIMIT
    assert len(record.key or b"") <= events.ENTITY_LIMIT
    told = json.loads(record.value or b"")
    assert (told["cut"], len(told["data"]), told["message"]) == (True, failure.BRIEF_LIMIT, "no")


def test_what_the_topic_finds_too_large_is_told_briefly(settings: Settings) -> None:
    """A topic that takes less than it should still gets every error."""
    topic = Topic(largest=10_000)
    large = replace(ERROR, data="x" * 50_000)
    emit_errors(settings, [("e-1", ERROR), ("e-2", large)], topic.emit)
    told = [json.loads(record.value or b"") for record in topic.records]
    assert [(each["cut"], len(each["data"])) for each in told] == [(False, 2), (True, 2_000)]


def test_an_errors_topic_that_takes_nothing_stops_the_way_out(settings: Settings) -> None:
    """Nothing may be deleted that nobody was told of."""
    with pytest.raises(ServiceRefusedError, match="access denied"):
        emit_errors(settings, [("e-1", ERROR)], Topic(refuses=True).emit)
    with pytest.raises(MessageRefusedError):
        emit_errors(settings, [("e-1", ERROR)], Topic(largest=1).emit)
