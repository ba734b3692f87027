"""Async functions of authors, awaited from code that is not async.

A worker's loop child has one event loop for all its runs; anywhere else each thread has a loop of its own.
"""

import asyncio
import inspect
import itertools
import os
import threading
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
)
from contextlib import suppress
from contextvars import ContextVar, copy_context
from typing import Any, Final, Generic, TypeVar

T = TypeVar("T")

Wait = Callable[[Coroutine[Any, Any, Any]], Any]

#: How many items of an async iterator are made before they are asked for, and how many of a stream are read
#: in one call: each call is a way between two threads.
AHEAD: Final = 100


class _Loops(threading.local):
    """The event loop of each thread. It stays open: clients that one run leaves to the next belong to it."""

    runner: asyncio.Runner | None = None


_loops = _Loops()


def _wait_here(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on the loop of this thread; return its result, or raise its error."""
    runner = _loops.runner = _loops.runner or asyncio.Runner()
    has_ended = False

    async def run() -> T:
        nonlocal has_ended
        try:
            return await coroutine
        finally:
            has_ended = True

    try:
        return runner.run(run(), context=copy_context())
    finally:
        if not has_ended:
            # A signal raised in the loop itself, as the soft limit of a pool process does. The coroutine must
            # not go on within the next run: closing the loop cancels it.
            _loops.runner = None
            runner.close()


def _forget_loop() -> None:
    """Forget the loop in a forked child: its selector is the parent's."""
    _loops.runner = None


os.register_at_fork(after_in_child=_forget_loop)

#: Waits for a coroutine of the run that the code belongs to.
waiter: ContextVar[Wait] = ContextVar("waiter", default=_wait_here)


def is_async(function: Callable[..., Any]) -> bool:
    """Whether a function is an ``async def``, with or without ``yield``."""
    plain = inspect.unwrap(function)
    return inspect.iscoroutinefunction(plain) or inspect.isasyncgenfunction(plain)


def call(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a function; if it is async, wait for what it returns."""
    value = function(*args, **kwargs)
    return waiter.get()(value) if inspect.iscoroutine(value) else value


def iterate(items: Iterable[T] | AsyncIterable[T]) -> Iterator[T]:
    """Yield the items of an iterable, async or not, as they are made; at most ``AHEAD`` wait to be taken."""
    if not isinstance(items, AsyncIterable):
        yield from items
        return
    wait = waiter.get()
    pump = wait(_start(items))
    try:
        while batch := wait(pump.next()):
            yield from batch
    finally:
        wait(pump.close())


async def stream(items: Iterable[T]) -> AsyncIterator[T]:
    """Yield the items of an iterable that blocks: threads read it, not the event loop."""
    iterator = iter(items)
    while batch := await asyncio.to_thread(lambda: list(itertools.islice(iterator, AHEAD))):
        for item in batch:
            yield item


async def _start(items: AsyncIterable[T]) -> "_Pump[T]":
    return _Pump(items)


class _Pump(Generic[T]):
    """Runs an async iterator in one task from its start to its end: timeouts and scopes belong to a task."""

    def __init__(self, source: AsyncIterable[T]) -> None:
        self._made: list[T] = []
        #: set when there are items, or the task has ended
        self._ready = asyncio.Event()
        self._taken = asyncio.Event()
        self._task = asyncio.create_task(self._run(source))
        self._task.add_done_callback(lambda _: self._ready.set())

    async def _run(self, source: AsyncIterable[T]) -> None:
        iterator = aiter(source)
        try:
            async for item in iterator:
                self._made.append(item)
                self._ready.set()
                if len(self._made) >= AHEAD:
                    self._taken.clear()
                    await self._taken.wait()
        finally:
            if isinstance(iterator, AsyncGenerator):
                await iterator.aclose()

    async def next(self) -> list[T]:
        """Return the items made since the last call, at least one; none at the end. Raises its error."""
        await self._ready.wait()
        batch, self._made = self._made, []
        self._taken.set()
        if not self._task.done():
            self._ready.clear()
        elif not batch:
            self._task.result()
        return batch

    async def close(self) -> None:
        """End the iterator, wherever it is."""
        self._task.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await self._task
