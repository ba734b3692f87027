"""Async stages and tasks for tests of the worker's loops: they do what their data says.

Named in TASK_MODULES, loaded by nothing else.
"""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterable, AsyncIterator
from typing import Any

from celery import current_task as celery_task
from celery import shared_task
from pydantic import BaseModel

from pipeline import current_task, stage
from tests.integration.workshop import HELD, write


class Call(BaseModel):
    """An instruction, and the name it is recorded under."""

    key: str
    do: str = "wait"
    seconds: float = 0.0
    #: attempts that go wrong before one goes well
    times: int = 1_000
    parts: int = 0


class Answer(BaseModel):
    """The result of a call."""

    key: str
    total: int = 0


async def obey(call: Call) -> None:
    """Do what is asked."""
    match call.do:
        case "wait":
            await asyncio.sleep(call.seconds)
        case "hold":  # until the test lets it go
            deadline = time.monotonic() + HELD
            while not os.path.exists(f"{os.environ['WORKSHOP_LOG']}.{call.key}"):
                if time.monotonic() > deadline:
                    raise TimeoutError("nobody let it go")
                await asyncio.sleep(0.05)
        case "tidy":  # and end well all the same
            try:
                await asyncio.sleep(HELD)
            except asyncio.CancelledError:
                write(call.key, "tidied")
        case "resist":
            while True:
                try:
                    await asyncio.sleep(HELD)
                except asyncio.CancelledError:
                    write(call.key, "resisted")
        case "block":
            time.sleep(call.seconds)
        case "exit":
            raise SystemExit(3)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "fail":
            raise ValueError("as asked")


async def act(call: Call, attempt: int) -> None:
    """Write the line and do what is asked, the first ``times`` attempts."""
    write(call.key, "start", attempt=attempt)
    try:
        if attempt <= call.times:
            await obey(call)
    except asyncio.CancelledError:
        write(call.key, "cancelled")
        raise
    write(call.key, "end", attempt=attempt)


def attempt() -> int:
    """Return which attempt of a stage's task this is."""
    task = current_task()
    assert task
    return task.attempt


@stage(consumes="calls", emits="answers")
async def ask(call: Call) -> Answer:
    """One task an event."""
    await act(call, attempt())
    return Answer(key=call.key)


@stage(consumes="ordered-calls", ordered=True)
async def ask_in_turn(call: Call) -> None:
    """In the order of an entity's events."""
    await act(call, attempt())


@stage(consumes="polls", emits="polled")
async def poll(call: Call) -> int:
    """One call of many."""
    await act(call, attempt())
    return len(call.key)


@poll.split
async def calls(call: Call) -> AsyncIterator[Call]:
    """Make them one by one."""
    for number in range(call.parts):
        await asyncio.sleep(0)
        yield Call(key=f"{call.key}/{number}")


@poll.gather
async def polled(call: Call, lengths: AsyncIterable[int]) -> Answer:
    """Add them up."""
    total = 0
    async for length in lengths:
        total += length
    write(call.key, "gather", total=total)
    return Answer(key=call.key, total=total)


@shared_task(bind=True, max_retries=1)  # type: ignore[untyped-decorator]
async def note(self: Any, key: str, do: str = "wait", seconds: float = 0.0) -> str:
    """A plain task: what Celery calls the running task is right after every wait."""
    for _ in range(3):
        await asyncio.sleep(0.01)
        assert self.request.id == celery_task.request.id, "the run of another task"
        assert self.request.args[0] == key
    if do == "celery-retry" and not self.request.retries:
        raise self.retry(countdown=0)
    await act(Call(key=key, do=do, seconds=seconds), self.request.retries + 1)
    return key


@shared_task(autoretry_for=(ValueError,), max_retries=1, default_retry_delay=0)  # type: ignore[untyped-decorator]
async def insist(key: str) -> None:
    """Fail once."""
    retries = celery_task.request.retries
    await act(Call(key=key, do="fail", times=1), retries + 1)


@shared_task  # type: ignore[untyped-decorator]
def nap(key: str, seconds: float) -> None:
    """Take a process of the pool for a while."""
    write(key, "start")
    time.sleep(seconds)
    write(key, "end")
