"""Stages with async functions: what they take and return, and that each is awaited from start to end."""

import asyncio
import contextvars
import threading
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable
from typing import Any

import pytest

from pipeline import StageDefinitionError, stage
from pipeline.author.awaiting import AHEAD, call, iterate
from pipeline.author.registry import Registry

shown: contextvars.ContextVar[str] = contextvars.ContextVar("shown", default="")


def test_each_function_of_a_stage_may_be_async() -> None:
    """Split, parts and gather of a stage run as those of one whose functions are plain."""

    @stage(consumes="a", emits="b", registry=Registry())
    async def double(number: int) -> int:
        await asyncio.sleep(0)
        return 2 * number

    @double.split
    async def numbers(most: int) -> AsyncIterator[int]:
        for number in range(most):
            await asyncio.sleep(0)
            yield number

    @double.gather
    async def total(most: int, doubled: AsyncIterable[int]) -> int:
        return sum([number async for number in doubled])

    double.check()
    parts = list(double.run_split("250"))
    assert parts == [str(number) for number in range(250)]
    assert double.run_gather("250", (double.run_part(part) for part in parts)) == str(249 * 250)
    assert [double.is_async(role) for role in ("part", "split", "gather", "run")] == [True] * 4


def test_a_split_may_be_a_coroutine_that_returns_its_parts() -> None:
    """It is awaited, and what it returns is read."""

    @stage(consumes="a", emits="b", registry=Registry())
    def double(number: int) -> int:
        return 2 * number

    @double.split
    async def numbers(most: int) -> Iterable[int]:
        await asyncio.sleep(0)
        return range(most)

    @double.gather
    def total(most: int, doubled: Iterable[int]) -> int:
        return sum(doubled)

    double.check()
    assert list(double.run_split("3")) == ["0", "1", "2"]
    assert [double.is_async(role) for role in ("part", "split", "gather")] == [False, True, False]


def test_a_unit_test_awaits_the_stage_itself() -> None:
    """Calling it calls the function, and returns its coroutine."""

    @stage(consumes="a", emits="b", registry=Registry())
    async def double(number: int) -> int:
        await asyncio.sleep(0)
        return 2 * number

    assert asyncio.run(double(4)) == 8


async def reads_on_the_loop(data: int, results: Iterable[int]) -> int:
    return sum(results)


def waits_for_none(data: int, results: AsyncIterable[int]) -> int:
    return 0


@pytest.mark.parametrize(
    ("gather", "mend"),
    [(reads_on_the_loop, r"Annotate AsyncIterable\[T\]"), (waits_for_none, r"Annotate Iterable\[T\]")],
)
def test_a_gather_takes_a_stream_that_it_can_read(gather: Callable[..., Any], mend: str) -> None:
    """Reading results on the event loop would stop all its runs; a plain function cannot await any."""

    @stage(consumes="a", emits="b", registry=Registry())
    def double(number: int) -> int:
        return 2 * number

    @double.split
    def numbers(most: int) -> Iterable[int]:
        return range(most)

    double.gather(gather)
    with pytest.raises(StageDefinitionError, match=mend):
        double.check()


def test_an_async_split_is_made_as_its_parts_are_taken_and_in_one_task() -> None:
    """A huge split is never whole in memory; timeouts and scopes that are open at a ``yield`` work."""
    made = 0
    tasks = set()

    async def numbers() -> AsyncIterator[int]:
        nonlocal made
        async with asyncio.timeout(60):
            while True:
                tasks.add(asyncio.current_task())
                made += 1
                yield made

    items = iterate(numbers())
    assert [next(items) for _ in range(3 * AHEAD)] == list(range(1, 3 * AHEAD + 1))
    assert made <= 5 * AHEAD
    assert len(tasks) == 1


def test_the_error_of_an_async_split_comes_after_its_parts() -> None:
    """As that of a plain generator."""

    async def numbers() -> AsyncIterator[int]:
        yield 1
        raise ValueError("no more")

    items = iterate(numbers())
    assert next(items) == 1
    with pytest.raises(ValueError, match="no more"):
        next(items)


@pytest.mark.parametrize("taken", [1, AHEAD])
def test_an_async_split_is_closed_where_its_reader_stops(taken: int) -> None:
    """Its ``finally`` runs, whether it waits for something or for its reader."""
    closed: list[bool] = []

    async def numbers() -> AsyncIterator[int]:
        try:
            for number in range(taken):
                yield number
            await asyncio.sleep(3600)
        finally:
            closed.append(True)

    items = iterate(numbers())
    assert next(items) == 0
    items.close()  # type: ignore[attr-defined]
    assert closed == [True]


def test_a_loop_stays_open_for_the_next_run_in_its_thread() -> None:
    """An HTTP client that one run leaves to the next belongs to the loop. Other threads have their own."""

    async def loop() -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    seen: list[asyncio.AbstractEventLoop] = []
    thread = threading.Thread(target=lambda: seen.append(call(loop)))
    thread.start()
    thread.join()
    assert call(loop) is call(loop)
    assert seen[0] is not call(loop)
    assert seen[0].is_closed() is False
    seen[0].close()


def test_an_async_function_sees_the_context_of_its_caller() -> None:
    """``current_task()`` and the fields of log lines are context variables."""

    async def see() -> str:
        return shown.get()

    token = shown.set("this")
    try:
        assert call(see) == "this"
    finally:
        shown.reset(token)
