"""Stages and tasks for tests of the worker: the data has their instructions, a file their effects.

Named in TASK_MODULES, loaded by nothing else. A started run writes a line, so the test sees every one.
"""

import fcntl
import json
import logging
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from celery import Task, shared_task
from celery import current_task as celery_task
from celery.exceptions import Ignore, SoftTimeLimitExceeded
from celery.signals import task_failure, task_rejected, task_unknown
from pydantic import BaseModel

from pipeline import PermanentError, Retry, current_task, stage

#: Seconds that a held run waits for the test.
HELD = 120.0


class Order(BaseModel):
    """An instruction, and the name it is recorded under."""

    key: str
    do: str = "succeed"
    seconds: float = 0.0
    #: attempts that go wrong before one goes well
    times: int = 1_000
    #: characters of the result
    size: int = 0
    #: what makes its data as large as it is
    filling: str = ""


class Done(BaseModel):
    """The result of an instruction."""

    key: str
    total: int = 0
    filling: str = ""


class OddError(Exception):
    """Cannot be pickled, and cannot be shown."""

    def __init__(self) -> None:
        self.held = lambda: None

    def __str__(self) -> str:
        raise RuntimeError("no text")


def write(key: str, what: str, **more: Any) -> None:
    """Add a line to the file that the test reads; whole, however many processes write."""
    line = json.dumps({"key": key, "what": what, "at": time.time(), "pid": os.getpid(), **more}) + "\n"
    with open(os.environ["WORKSHOP_LOG"], "a") as log:
        fcntl.flock(log, fcntl.LOCK_EX)
        log.write(line)


def obey(order: Order) -> None:
    """Do what is asked."""
    match order.do:
        case "sleep":
            time.sleep(order.seconds)
        case "hold":  # until the test lets it go
            deadline = time.monotonic() + HELD
            while not os.path.exists(f"{os.environ['WORKSHOP_LOG']}.{order.key}"):
                if time.monotonic() > deadline:
                    raise TimeoutError("nobody let it go")
                time.sleep(0.02)
        case "retry":
            raise Retry(order.seconds)
        case "celery-retry":
            celery_task.retry(countdown=order.seconds)
        case "kill":  # as the kernel does when memory runs out
            os.kill(os.getpid(), signal.SIGKILL)
        case "kill-worker":  # and all its children
            # Only a living worker's own group: an orphan's parent is somebody else.
            if os.getpgid(os.getppid()) == os.getppid() != 1:
                os.killpg(os.getppid(), signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)
        case "need-key":  # what a person puts there
            if not os.path.exists(f"{os.environ['WORKSHOP_LOG']}.{order.key}"):
                raise PermanentError("no key")
        case "succeed" | "nothing" | "fill":
            pass
        case error:
            raise ERRORS[error]()


ERRORS: dict[str, Callable[[], BaseException]] = {
    "fail": lambda: ValueError("as asked"),
    "permanent": lambda: PermanentError("as asked"),
    "ignore": Ignore,
    "exit": lambda: SystemExit(3),
    "memory": MemoryError,
    "interrupt": KeyboardInterrupt,
    "odd": OddError,
    "strange-text": lambda: ValueError("\x00\x1b[31m \udce9 \ufffe"),
}


def act(order: Order) -> None:
    """Write the line and do what is asked, the first ``times`` attempts."""
    task = current_task()
    attempt = task.attempt if task else 0
    write(order.key, "start", attempt=attempt)
    if attempt <= order.times:
        obey(order)
    write(order.key, "end", attempt=attempt)


@stage(consumes="orders", emits="made")
def make(order: Order) -> Done | None:
    """One task an event."""
    act(order)
    return None if order.do == "nothing" else Done(key=order.key, filling="x" * order.size)


@stage(consumes="visits", ordered=True)
def visit(order: Order) -> None:
    """In the order of an entity's events."""
    act(order)


@stage(consumes="quick-orders", retries=0)
def once(order: Order) -> None:
    """No second attempt."""
    act(order)


class Batch(BaseModel):
    """So many orders."""

    key: str
    parts: int
    do: str = "succeed"
    #: how long each takes to do it
    seconds: float = 0.0
    #: bytes of each part's result
    size: int = 0
    #: whether the parts themselves are as large
    filled: bool = False


class Part(BaseModel):
    """One order of a batch."""

    order: Order
    size: int = 0
    filling: str = ""


class Made(BaseModel):
    """One of a batch."""

    count: int
    filling: str = ""


@stage(consumes="batches", emits="packed")
def pack(part: Part) -> Made:
    """One part."""
    act(part.order)
    return Made(count=1, filling="x" * part.size)


@pack.split
def orders(batch: Batch) -> Iterator[Part]:
    """The parts of a batch."""
    write(batch.key, "split")
    for number in range(batch.parts):
        order = Order(key=f"{batch.key}/{number}", do=batch.do, seconds=batch.seconds)
        yield Part(order=order, size=batch.size, filling="x" * batch.size if batch.filled else "")


@pack.gather
def box(batch: Batch, made: Iterable[Made]) -> Done:
    """All of a batch."""
    total, size = 0, 0
    for each in made:
        total, size = total + each.count, size + len(each.filling)
    write(batch.key, "gather", total=total, bytes=size)
    return Done(key=batch.key, total=total)


# ─── Plain Celery tasks ───


@shared_task  # type: ignore[untyped-decorator]
def note(key: str, *args: Any) -> str:
    """Write a line."""
    write(key, "note", args=list(args))
    return key


@shared_task  # type: ignore[untyped-decorator]
def failed(task_id: str, key: str) -> None:
    """An errback as Celery publishes it."""
    write(key, "errback", task_id=task_id)


@shared_task  # type: ignore[untyped-decorator]
def looked_at(request: Any, error: BaseException, traceback: str) -> None:
    """An errback as Celery calls it."""
    write(request.args[0]["key"], "called", error=f"{type(error).__name__}: {error}", task_id=request.id)


@shared_task(bind=True, max_retries=5)  # type: ignore[untyped-decorator]
def again(self: "Task[Any, Any]", key: str, times: int, filling: str = "") -> None:
    """Celery's own retry."""
    write(key, "note", retries=self.request.retries)
    if self.request.retries < times:
        raise self.retry(countdown=0.2)


@shared_task  # type: ignore[untyped-decorator]
def do(order: dict[str, Any]) -> None:
    """Do what a stage would."""
    write(order["key"], "start")
    obey(Order(**order))
    write(order["key"], "end")


class Base(Task):  # type: ignore[misc]
    """A base class between Celery and tasks, as many projects have one."""

    abstract = True


@shared_task(base=Base)  # type: ignore[untyped-decorator]
def based(order: dict[str, Any]) -> None:
    """Do what a stage would, with a base of its own."""
    do(order)


class Hooked(Task):  # type: ignore[misc]
    """A base class whose hooks write a line."""

    abstract = True

    def on_failure(self, exc: Exception, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        write(args[0], "on_failure", error=type(exc).__name__)

    def after_return(
        self, status: str, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: Any
    ) -> None:
        write(args[0], "after_return", status=status)


@shared_task(base=Hooked, time_limit=1)  # type: ignore[untyped-decorator]
def hard(key: str) -> None:
    """Sleep beyond the hard limit, after a line of the log."""
    logging.getLogger(__name__).warning("sleeps")
    time.sleep(60)


@task_failure.connect  # type: ignore[untyped-decorator]
def _note_failure(sender: Any, exception: Exception, args: Any, **_: Any) -> None:
    if sender.name.endswith(".hard"):
        write(args[0], "task_failure", error=type(exception).__name__)


@task_unknown.connect  # type: ignore[untyped-decorator]
def _note_unknown(name: str, **_: Any) -> None:
    write(name, "task_unknown")


@task_rejected.connect  # type: ignore[untyped-decorator]
def _note_rejected(message: Any, **_: Any) -> None:
    write("rejected", "task_rejected")


@shared_task(soft_time_limit=1)  # type: ignore[untyped-decorator]
def soft(key: str) -> str:
    """Sleep beyond the soft limit."""
    try:
        time.sleep(20)
    except SoftTimeLimitExceeded:
        write(key, "soft")
        raise
    return key
