"""A stage's task on the wire, as Celery, Flower, SQS and the worker read it."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kombu import serialization

from pipeline.author.decorator import stage
from pipeline.author.registry import Registry
from pipeline.author.stages import Stage
from pipeline.errors import InvalidInputError
from pipeline.sqs import OutgoingMessage
from pipeline.wire import identity
from pipeline.wire.events import Coordinates, Event
from pipeline.wire.taskmessage import (
    TaskHeader,
    celery_name,
    data_of,
    for_event,
    for_gather,
    for_pages,
    for_part,
    generation_of,
    read_header,
    sealed_header,
    trace_headers_of,
)

SCHEMAS = Path(__file__).parents[2] / "docs" / "reference" / "schemas"
TRACE = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
EVENT = Event(
    id="e-1",
    source="/orders",
    type="order-placed",
    time=datetime(2026, 1, 1, tzinfo=UTC),
    entity_id="customer-7",
    data=b'{"order": 1}',
    traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-01",
    coordinates=Coordinates(topic="orders", partition=2, offset=40, timestamp_ms=0),
)


def whole_stage(**options: Any) -> Stage[Any, Any]:
    @stage(consumes="a", registry=Registry(), **options)
    def price(data: dict[str, int]) -> int:
        return data["order"]

    return price


def split_stage() -> Stage[Any, Any]:
    @stage(consumes="a", registry=Registry())
    def count(part: int) -> int:
        return part

    @count.split
    def parts(data: dict[str, int]) -> Iterator[int]:
        yield data["order"]

    @count.gather
    def total(data: dict[str, int], results: Iterable[int]) -> int:
        return sum(results)

    return count


def test_the_wire_format_is_pinned() -> None:
    """Tasks that wait in a queue during a deployment are read by the next version."""
    message = for_event(whole_stage(queue="fast.fifo"), EVENT, "j-1", 1_700_000_000.25, "0123456789abcdef")
    sent = json.loads(message.to_sqs()["body"])
    assert sent == {
        "body": '[[{"order": 1}],{},{"callbacks":null,"errbacks":null,"chain":null,"chord":null}]',
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {
            "lang": "py",
            "task": "price",
            "id": message.task_id,
            "root_id": message.task_id,
            "parent_id": None,
            "group": None,
            "shadow": None,
            "eta": None,
            "expires": None,
            "retries": 0,
            "timelimit": [None, None],
            "argsrepr": '({"order": 1},)',
            "kwargsrepr": "{'job_id': 'j-1', 'stage': 'price', 'part': 'run'}",
            "origin": "pipeline",
            "ignore_result": True,
            "pipeline": {
                "job_id": "j-1",
                "stage": "price",
                "role": "run",
                "event_source": "/orders",
                "event_id": "e-1",
                "entity_id": "customer-7",
                "part": None,
                "page": None,
                "joins": None,
                "topic": "orders",
                "partition": 2,
                "offset": 40,
                "submitted_at": 1_700_000_000.25,
                "plan": "0123456789abcdef",
            },
            "traceparent": EVENT.traceparent,
        },
        "properties": {
            "correlation_id": message.task_id,
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": "fast.fifo"},
            "delivery_tag": message.task_id,
            "priority": 0,
        },
    }


def test_the_schema_of_the_header_is_reviewed() -> None:
    """A change of the header shows as a change of the schema that is checked in."""
    assert json.loads((SCHEMAS / "task-header.json").read_text()) == TaskHeader.model_json_schema()


def test_a_task_is_the_same_however_often_its_event_is_read() -> None:
    """A replay makes the same task with the same deduplication id, and SQS drops it."""
    one, two = (for_event(whole_stage(), EVENT, "j-1", 1.5) for _ in range(2))
    assert one == two
    assert one.deduplication_id == one.task_id == identity.task_id("/orders", "e-1", "price", None)


def test_split_part_and_gather_are_tasks_of_their_own() -> None:
    """The three kinds of task of a split stage have ids, names and roles that never meet."""
    count = split_stage()
    split = for_event(count, EVENT, "j-1", 1.5)
    facts = TaskHeader.read(split.headers)
    assert facts is not None
    part = for_part(count, facts, 3, 20, "7", {})
    gather = for_gather(count, sealed_header(facts, {}), 20, EVENT.data.decode())
    assert [m.name for m in (split, part, gather)] == ["count.split", "count", "count.gather"]
    assert len({m.task_id for m in (split, part, gather)}) == 3
    assert part.headers["pipeline"]["part"] == {
        "split_id": split.task_id,
        "ordinal": 3,
        "total": 20,
        "keeps": False,
    }
    assert part.headers["parent_id"] == gather.headers["parent_id"] == split.task_id
    assert "'part': '3/20'" in part.headers["kwargsrepr"]


def test_a_page_task_is_its_split_that_a_worker_without_page_tasks_can_run() -> None:
    """Under an id of its own; its parts are those of the split itself."""
    count = split_stage()
    split = for_event(count, EVENT, "j-1", 1.5)
    facts = TaskHeader.read(split.headers)
    assert facts is not None
    page = for_pages(count, facts, 8, {})
    header = read_header(page.headers)
    assert header is not None
    assert (page.name, header.role, header.page) == ("count.split", "split", 8)
    assert header.task_id == page.task_id != split.task_id
    assert "'part': 'page 8'" in page.headers["kwargsrepr"]
    assert for_part(count, header, 3, 20, "7", {}) == for_part(count, facts, 3, 20, "7", {})


def test_only_a_split_has_pages() -> None:
    """Other messages with this name are not page tasks."""
    headers = dict(for_event(whole_stage(), EVENT, "j-1", 1.5).headers)
    with pytest.raises(InvalidInputError, match="is not one of task"):
        read_header({**headers, "pipeline": {**headers["pipeline"], "page": 8}})


def test_the_gather_is_the_same_from_whichever_part_it_is_made() -> None:
    """Whoever fills the counter sends the same gather."""
    count = split_stage()
    facts = TaskHeader.read(for_event(count, EVENT, "j-1", 1.5).headers)
    assert facts is not None
    parts = (TaskHeader.read(for_part(count, facts, n, 2, "1", {}).headers) for n in range(2))
    one, two = (for_gather(count, sealed_header(part, {}), 2, "{}") for part in parts if part)
    assert one == two


def test_a_gather_says_how_many_parts_are_all_there() -> None:
    """Its worker need not read the seal; where parts may be missing, the seal says which share."""
    count = split_stage()
    facts = TaskHeader.read(for_event(count, EVENT, "j-1", 1.5).headers)
    assert facts is not None
    for whole, joins in ((True, 2), (False, None)):
        gather = TaskHeader.read(for_gather(count, sealed_header(facts, {}), 2, "{}", whole=whole).headers)
        assert gather is not None
        assert (gather.role, gather.joins) == ("gather", joins)


def test_the_trace_goes_from_event_to_task_to_part_and_gather() -> None:
    """In Celery headers, where tracing libraries look; the gather has what its split kept."""
    count = split_stage()
    traced = replace(EVENT, traceparent=TRACE, carried={"x-datadog-trace-id": "42"})
    split = for_event(count, traced, "j-1", 1.5)
    facts = TaskHeader.read(split.headers)
    assert facts is not None
    trace = trace_headers_of(split.headers, TRACE)
    assert trace == {"traceparent": TRACE, "x-datadog-trace-id": "42"}
    gather = for_gather(count, sealed_header(facts, trace), 3, "{}")
    for message in (split, for_part(count, facts, 0, 3, "1", trace), gather):
        assert trace.items() <= message.headers.items()
    assert gather.headers["parts"] == 3


def test_the_gather_of_a_split_sealed_before_traces_were_kept() -> None:
    """A seal may be older than the worker that reads it."""
    count = split_stage()
    facts = TaskHeader.read(for_event(count, EVENT, "j-1", 1.5).headers)
    assert facts is not None
    assert "traceparent" not in for_gather(count, facts.model_dump_json(), 3, "{}").headers


def test_an_ordered_stage_groups_by_entity() -> None:
    """Tasks of one entity follow one another; without order each task is a group of its own."""
    assert for_event(whole_stage(ordered=True), EVENT, "j", 1).group_id == "customer-7"
    free = for_event(whole_stage(), EVENT, "j", 1)
    assert free.group_id == free.task_id


def test_long_data_is_cut_where_it_is_only_shown() -> None:
    """Flower's events do not carry whole documents."""
    long = replace(EVENT, data=json.dumps("x" * 5000).encode())
    assert len(for_event(whole_stage(), long, "j", 1).headers["argsrepr"]) < 220


def test_shown_arguments_tell_no_secret() -> None:
    """Flower and the events topic show no password; the body, which the task needs, is unchanged."""
    event = replace(EVENT, data=b'{"user": "ada", "dbPassword": "hunter2"}')
    message = for_event(whole_stage(), event, "j", 1)
    assert "ada" in message.headers["argsrepr"]
    assert "hunter2" not in message.headers["argsrepr"]
    assert "hunter2" in message.to_sqs()["body"]


@pytest.mark.parametrize("before", range(150, 220))
def test_a_cut_of_shown_arguments_leaves_no_half_of_a_token(before: int) -> None:
    """A token that the cut falls into has no form any more."""
    data = json.dumps([" " * before, "AKIA" + "IOSFODNN7EXAMPLE"]).encode()
    shown = for_event(whole_stage(), replace(EVENT, data=data), "j", 1).headers["argsrepr"]
    assert "AKIA" not in shown


@given(
    st.recursive(
        st.none() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    ),
    st.booleans(),
)
def test_data_arrives_as_it_was_sent(value: Any, ascii_only: bool) -> None:
    """The worker takes out the very text that the event held, and Celery reads the same value."""
    text = json.dumps(value, ensure_ascii=ascii_only)
    message = for_event(whole_stage(), replace(EVENT, data=text.encode()), "j", 1)
    sent = json.loads(message.to_sqs()["body"])
    assert data_of(sent["body"]) == text
    args, kwargs, embed = serialization.loads(sent["body"], sent["content-type"], sent["content-encoding"])
    assert (args, kwargs, embed["chain"]) == ([value], {}, None)


def test_data_that_kombu_would_change_stays_as_it_is() -> None:
    """Keys that mean something to kombu's JSON decoder mean nothing in an event."""
    text = '{"__type__":"datetime","__value__":"2026-01-01"}'
    message = for_event(whole_stage(), replace(EVENT, data=text.encode()), "j", 1)
    assert data_of(message.body) == text


def test_characters_that_sqs_refuses_are_escaped() -> None:
    """U+FFFE and U+FFFF are fine in JSON and not in SQS; they travel escaped."""
    event = replace(EVENT, data='"\ufffe\uffff"'.encode(), entity_id="\uffff")
    body = for_event(whole_stage(), event, "j", 1).to_sqs()["body"]
    assert not {"\ufffe", "\uffff"} & set(body)
    assert json.loads(body)["headers"]["pipeline"]["entity_id"] == "\uffff"
    assert data_of(json.loads(body)["body"]) == '"\ufffe\uffff"'


def test_a_celery_client_may_send_a_stage_its_task() -> None:
    """A body in another layout is read too."""
    assert json.loads(data_of(b'[ [{"a": 1}], {}, {"callbacks": null} ]')) == {"a": 1}


@pytest.mark.parametrize("body", [b"", b"[]", b"[[]]", b"{}", b"hello", b"[1]", b"[" * 100_000])
def test_a_body_without_data_is_refused(body: bytes) -> None:
    """A message that holds no data is a permanent error, not a crash."""
    with pytest.raises(InvalidInputError, match="the task's body is not"):
        data_of(body)


def test_a_plain_celery_task_has_no_header() -> None:
    """Plain tasks run on the same worker."""
    assert TaskHeader.read({"id": "x", "task": "app.add"}) is None


def test_a_broken_header_is_refused() -> None:
    """A header of another version is a permanent error that says so."""
    with pytest.raises(InvalidInputError, match="not of this version"):
        TaskHeader.read({"pipeline": {"job_id": 1}})


def test_names_are_those_that_flower_shows() -> None:
    """A stage's own name is its run and its parts."""
    assert [celery_name("s", role) for role in ("run", "part", "split", "gather")] == [
        "s",
        "s",
        "s.split",
        "s.gather",
    ]


def test_a_redriven_event_makes_a_task_that_says_so() -> None:
    """How often it was redriven travels beside the body, which stays as it was."""
    first, again = (for_event(whole_stage(), replace(EVENT, generation=n), "j", 1).to_sqs() for n in (0, 3))
    assert (first["attributes"], again["attributes"]) == ({}, {"generation": "3"})
    assert first["body"] == again["body"]
    assert [generation_of(each["attributes"]) for each in (first, again)] == [0, 3]


@pytest.mark.parametrize("text", ["", "-1", "x", "1e3", "٣", "9999999"])
def test_a_generation_that_is_none_counts_as_the_first(text: str) -> None:
    """An attribute that somebody else set breaks nothing."""
    assert generation_of({"generation": text}) == 0


def test_a_task_leaves_room_for_its_reason() -> None:
    """A message that fills SQS's limit could not become a dead letter that says why."""
    assert for_event(whole_stage(), EVENT, "j", 1).to_sqs()["room"] > 1_000


def test_where_a_split_fits_its_gather_does() -> None:
    """It is refused before its parts run, not after: then their job could never end."""
    event = replace(EVENT, traceparent=None)
    split = for_event(split_stage(), event, "j", 1)
    header = TaskHeader.model_validate(split.headers["pipeline"])
    # Of as many parts as there can be, and in a trace that began with the split.
    sealed = sealed_header(header, trace_headers_of(split.headers, TRACE))
    gather = for_gather(split_stage(), sealed, 10**9, event.data.decode())
    sent, joined = (OutgoingMessage(**message.to_sqs()) for message in (split, gather))
    assert joined.size + joined.room <= sent.size + sent.room
