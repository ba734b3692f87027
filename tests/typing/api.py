"""A user's stages, as a type checker sees them: checked with mypy --strict, never run.

A ``type: ignore`` that is not needed is an error, so each of them says that the checker finds this fault.
"""

from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, assert_type

from pipeline import (
    AsyncClient,
    AsyncJobHandle,
    Client,
    CurrentTask,
    Event,
    JobHandle,
    JobState,
    PermanentError,
    PipelineError,
    Record,
    Retry,
    Stage,
    Tick,
    consumer,
    cron,
    current_task,
    every,
    stage,
)


@dataclass
class Line:
    """One line of an order."""

    article: str
    amount: int


@dataclass
class Order:
    """An order."""

    lines: list[Line]


@stage(consumes="order-placed", emits="order-priced", retries=3, time_limit=60, tolerate=0.05)
def price(line: Line) -> int:
    """Return the price of a line."""
    if not line.amount:
        raise PermanentError(f"{line.article}: the amount is 0")
    if line.amount > 100:
        raise Retry(5, "the warehouse is asked later")
    return 10 * line.amount


@price.split
def lines(order: Order) -> Iterator[Line]:
    """Divide an order."""
    yield from order.lines


@price.gather
def total(order: Order, prices: Iterable[int]) -> float | None:
    """Add up the prices."""
    return sum(prices) / len(order.lines) if order.lines else None


@stage(emits="day-begun", schedule=cron("0 0 * * *", timezone="Europe/Berlin", missed="all"))
def begin_day(tick: Tick) -> str:
    """Return the day of a tick."""
    return str(tick.at.date())


@stage(schedule=every(60), schedule_data=lambda tick: tick.at.minute)
def note(minute: int) -> None:
    """Take what is made of a tick."""


@stage(consumes="order-priced", ordered="strict", queue="mails.fifo")
def mail(amount: float) -> None:
    """Send a mail."""
    task = current_task()
    assert_type(task, CurrentTask | None)
    if task is not None:
        assert_type(task.entity_id, str)
        assert_type(task.missing, tuple[int, ...])


@stage(consumes="order-placed", emits="order-quoted")
async def quote(line: Line) -> int:
    """Ask another service for the price of a line."""
    return 10 * line.amount


@quote.split
async def lines_one_by_one(order: Order) -> AsyncIterator[Line]:
    """Divide an order."""
    for line in order.lines:
        yield line


@quote.gather
async def quoted(order: Order, prices: AsyncIterable[int]) -> float:
    """Add up the prices."""
    return sum([price async for price in prices]) / len(order.lines)


# A stage keeps the types of its function, and so do split and gather.
assert_type(price, Stage[Line, int])
assert_type(price(Line("a", 1)), int)
assert_type(lines, Callable[[Order], Iterable[Line]])
assert_type(total, Callable[[Order, Iterable[int]], float | None])
assert_type(mail, Stage[float, None])


async def await_them(order: Order) -> None:
    """Those of an async stage, too: a unit test awaits it."""
    assert_type(await quote(order.lines[0]), int)
    assert_type([line async for line in lines_one_by_one(order)], list[Line])


assert_type(quoted, Callable[[Order, AsyncIterable[int]], Coroutine[Any, Any, float]])


@consumer("orders-cdc", emits="order-placed")
def placed(record: Record[Line]) -> list[Event[Order]]:
    """Make an order of a line."""
    assert_type(record.data, Line)
    assert_type(record.key, str | None)
    return [Event(Order([record.data]), entity=record.key)]


assert_type(placed(Record(Line("a", 1))), list[Event[Order]])


def call(client: Client, order: Order) -> None:
    """Submit jobs: the data is of the stage's annotation, or of its split's."""
    job = client.submit(mail, 20.5, entity="c-7", key="order-17")
    assert_type(job, JobHandle)
    assert_type(job.id, str)
    assert_type(job.status(), JobState)
    assert_type(job.wait(timeout=10), JobState)
    assert_type(job.cancel(), bool)
    client.submit(lines, order)
    client.submit("order-placed", {"lines": []})
    assert_type(client.submit_many(lines, [order], key=str), list[JobHandle | PipelineError])
    client.submit_many(lines, [order], entity=lambda each: each.lines[0].article)
    client.submit(mail, "20.5")  # type: ignore[misc]
    client.submit(lines, order.lines)  # type: ignore[arg-type]
    client.submit(mail, 20.5, entity=7)  # type: ignore[call-overload]
    client.submit_many(mail, ["20.5"])  # type: ignore[misc]
    client.submit(total, order)  # type: ignore[arg-type]


async def call_from_a_loop(client: AsyncClient, order: Order) -> None:
    """As above."""
    job = await client.submit(lines, order, key="order-17")
    assert_type(job, AsyncJobHandle)
    assert_type(await job.wait(), JobState)
    await client.submit(mail, "20.5")  # type: ignore[misc]


# Faults are found.
price("a")  # type: ignore[arg-type]
cron(5)  # type: ignore[arg-type]
Retry()  # type: ignore[call-arg]


@stage(consumes="other")  # type: ignore[arg-type]
def two_parameters(line: Line, other: int) -> int:
    """Take more than the data."""
    return line.amount + other


@consumer("orders-cdc", emits="order-placed")  # type: ignore[arg-type]
def no_record(line: Line) -> Order:
    """Take the data of a record in place of the record."""
    return Order([line])


@price.split  # type: ignore[arg-type]
def wrong_parts(order: Order) -> Iterator[str]:
    """Make parts that the stage does not take."""
    yield from (line.article for line in order.lines)


@price.gather  # type: ignore[arg-type]
def wrong_results(order: Order, prices: Iterable[str]) -> int:
    """Gather results that the stage does not return."""
    return len(list(prices))
