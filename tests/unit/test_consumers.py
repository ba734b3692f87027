"""Consumers: the decorator, its refusals, and the events that a record becomes."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from pipeline import Event, Record, consumer, stage
from pipeline.author.consumers import MAX_EVENTS, Consumer
from pipeline.author.registry import Registry
from pipeline.errors import InvalidInputError, PermanentError, StageDefinitionError
from pipeline.wire import events
from pipeline.wire.events import Coordinates


class Row(BaseModel):
    id: int
    paid: bool = False


class Order(BaseModel):
    number: int


class Placed(BaseModel):
    kind: Literal["placed"]
    number: int


class Cancelled(BaseModel):
    kind: Literal["cancelled"]
    reason: str


def registry() -> Registry:
    """The stage that takes the events of all consumers here."""
    made = Registry()

    @stage(consumes="order-placed", registry=made)
    def price(order: Order) -> None: ...

    return made


def made(
    function: Callable[..., Any], emits: str = "order-placed", topic: str = "others", **options: Any
) -> Consumer[Any, Any]:
    """Return a consumer that was checked as at start."""
    known = registry()
    one: Consumer[Any, Any] = consumer(topic, emits=emits, registry=known, **options)(function)
    known.check()
    return one


def run(one: Consumer[Any, Any], value: bytes, key: bytes | None = b"ada", offset: int = 7) -> list[Any]:
    """Return the events of a plain record."""
    event = events.decode(
        key=key,
        value=value,
        headers=(),
        coordinates=Coordinates(topic="others", partition=3, offset=offset, timestamp_ms=1_700_000_000_000),
    )
    return one.make_events("shop", event, key=key, headers=[("origin", b"erp")])


def placed(record: Record[Row]) -> Order | None:
    return Order(number=record.data.id) if record.data.paid else None


def split_up(record: Record[list[int]]) -> list[Order]:
    return [Order(number=number) for number in record.data]


# ─── use ───


def test_calling_a_consumer_runs_its_function() -> None:
    """A unit test of a consumer needs a record with its data, and nothing else."""
    assert made(placed)(Record(Row(id=4, paid=True))) == Order(number=4)


def test_a_record_becomes_an_event_of_its_entity() -> None:
    """The data is what the function returned; entity, time and place are the record's."""
    (event,) = run(made(placed), b'{"id": 4, "paid": true}')
    assert (event.data, event.entity_id, event.type) == (b'{"number":4}', "ada", "order-placed")
    assert event.source == "/shop/placed"
    assert event.time == datetime.fromtimestamp(1_700_000_000, UTC)
    assert event.coordinates.offset == 7
    assert event.job_in("shop", "order-placed")[1]


def test_a_record_is_passed_over_or_divided() -> None:
    """None makes no event, a list one of each item."""
    assert run(made(placed), b'{"id": 4}') == []
    several = run(made(split_up), b"[1, 2, 2]")
    assert [event.data for event in several] == [b'{"number":1}', b'{"number":2}', b'{"number":2}']
    assert len({event.id for event in several}) == 3


def test_a_function_sees_the_whole_record() -> None:
    """Key, headers, place, type and time of a record are there for it."""
    seen: list[Record[int]] = []

    def look(record: Record[int]) -> Order | None:
        seen.append(record)
        return None

    run(made(look), b"1", key=b"\xff\x00")
    (record,) = seen
    assert (record.key, record.type, record.data) == ("ff00", "others", 1)
    assert (record.topic, record.partition, record.offset) == ("others", 3, 7)
    assert record.headers == {"origin": b"erp"}


def test_entity_id_and_time_can_be_set() -> None:
    """An Event says what else than the data is not the record's."""
    when = datetime(2026, 5, 1, tzinfo=UTC)

    def keyed(record: Record[Row]) -> Event[Order]:
        return Event(Order(number=record.data.id), entity="acme", id=f"order-{record.data.id}", time=when)

    (event,) = run(made(keyed), b'{"id": 4}')
    assert (event.entity_id, event.id, event.time, event.data) == ("acme", "order-4", when, b'{"number":4}')


def test_a_discriminator_field_chooses_the_type() -> None:
    """JSON whose kind is in a field is a union of models."""

    def sort(record: Record[Annotated[Placed | Cancelled, Field(discriminator="kind")]]) -> Order | None:
        return Order(number=record.data.number) if isinstance(record.data, Placed) else None

    one = made(sort)
    assert len(run(one, b'{"kind": "placed", "number": 1}')) == 1
    assert run(one, b'{"kind": "cancelled", "reason": "late"}') == []
    with pytest.raises(InvalidInputError, match="kind"):
        run(one, b'{"kind": "moved"}')


@settings(max_examples=20)
@given(st.lists(st.integers(0, 9), max_size=5), st.integers(0, 2**40), st.integers(0, 2**40))
def test_ids_are_functions_of_the_record(numbers: list[int], one: int, other: int) -> None:
    """The same record gives the same events whenever it is read; another record never one of their ids."""
    value = str(numbers).encode()
    first, again = (run(made(split_up), value, offset=one) for _ in range(2))
    assert first == again
    if one != other:
        assert not {e.id for e in first} & {e.id for e in run(made(split_up), value, offset=other)}


def test_two_consumers_of_a_record_make_different_jobs() -> None:
    """Neither takes the other's event for a copy of its own."""

    def other(record: Record[Row]) -> Order:
        return Order(number=record.data.id)

    jobs = {
        run(made(function), b'{"id": 4, "paid": true}')[0].job_in("shop", "order-placed")[0]
        for function in (placed, other)
    }
    assert len(jobs) == 2


# ─── rejections ───


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (Event(Order(number=1), entity=""), "entity=''"),
        (Event(Order(number=1), entity="x" * 1025), "entity='xxx"),
        (Event(Order(number=1), entity="\ud800"), "half a character"),
        (Event(Order(number=1), id=""), "id=''"),
        (Event(Order(number=1), time=datetime(2026, 5, 1)), "time zone"),
        (Event("text"), "is not"),
        (Event(None), "it returned None"),
    ],
)
def test_an_event_that_nothing_could_carry_is_refused(event: Event[Any], reason: str) -> None:
    """The error names the consumer, the value and what may be there."""

    def make(record: Record[int]) -> Event[Order]:
        return event

    with pytest.raises(PermanentError, match=reason) as caught:
        run(made(make), b"1")
    assert "make (" in str(caught.value)


def test_copies_and_floods_are_refused() -> None:
    """Two events with one id would be one job; a million of one record would not fit."""

    def twins(record: Record[int]) -> list[Event[Order]]:
        return [Event(Order(number=number), id="one") for number in range(record.data)]

    with pytest.raises(PermanentError, match="same id"):
        run(made(twins), b"2")
    assert len(run(made(split_up), str([1] * MAX_EVENTS).encode())) == MAX_EVENTS
    with pytest.raises(PermanentError, match="1,001 events"):
        run(made(split_up), str([1] * (MAX_EVENTS + 1)).encode())


# ─── definition ───


def no_record(record: Row) -> Order:
    raise NotImplementedError


def bare_record(record: Record) -> Order:  # type: ignore[type-arg]
    raise NotImplementedError


def no_result(record: Record[Row]) -> None: ...
def no_annotation(record: Record[Row]):  # type: ignore[no-untyped-def]
    raise NotImplementedError


def other_result(record: Record[Row]) -> Row:
    raise NotImplementedError


def mixed(record: Record[Row]) -> Event[Order] | Order:
    raise NotImplementedError


def bare_event(record: Record[Row]) -> Event:  # type: ignore[type-arg]
    raise NotImplementedError


def two(record: Record[Row], other: int) -> Order:
    raise NotImplementedError


async def waits(record: Record[Row]) -> Order:
    raise NotImplementedError


def streams(record: Record[Row]) -> Iterator[Order]:
    yield Order(number=1)


@pytest.mark.parametrize(
    ("function", "options", "reason"),
    [
        (no_record, {}, r"Annotate Record\[T\]"),
        (bare_record, {}, r"Annotate Record\[T\]"),
        (no_result, {}, "it returns None"),
        (no_annotation, {}, "return value has no annotation"),
        (other_result, {}, "reads Order"),
        (mixed, {}, r"Annotate one of T, Event\[T\]"),
        (bare_event, {}, r"Annotate one of T, Event\[T\]"),
        (two, {}, "1 parameter"),
        (waits, {}, "it is async. Use a plain def"),
        (streams, {}, "Return a list"),
        (placed, {"emits": "nobody"}, "which no stage of TASK_MODULES consumes"),
        (placed, {"topic": "order-placed"}, "is a topic of this service"),
        (placed, {"topic": "order.placed"}, "KAFKA_TOPIC_ORDER_PLACED"),
        (placed, {"topic": "orders cdc"}, "topic='orders cdc' is no valid name"),
        (placed, {"emits": "a b"}, "emits='a b' is no valid name"),
        (placed, {"name": "0"}, "name='0' is no valid name"),
        (placed, {"name": "price"}, "has the same name"),
        (placed, {"tombstones": True}, r"Annotate Record\[Row \| None\]"),
    ],
)
def test_what_cannot_work_is_refused_at_start(
    function: Callable[..., Any], options: dict[str, Any], reason: str
) -> None:
    """The error names the function and the fix."""
    with pytest.raises(StageDefinitionError, match=reason) as caught:
        made(function, **options)
    assert "test_consumers" in str(caught.value)


def test_two_consumers_of_one_name_are_refused() -> None:
    """Ids have the name in them."""
    known = registry()
    consumer("others", emits="order-placed", registry=known)(placed)
    with pytest.raises(StageDefinitionError, match="is taken by"):
        consumer("others", emits="order-placed", name="placed", registry=known)(split_up)
