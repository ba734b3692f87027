"""Plain tasks for tests of canvas: named in TASK_MODULES. Each writes a line that the test reads."""

import json
import os
from pathlib import Path
from typing import Any

from celery import Task, chord, group, shared_task
from celery.exceptions import Ignore

from pipeline import PermanentError


def write(key: str, what: str, **fields: Any) -> None:
    """Write one line, whole."""
    line = json.dumps({"key": key, "what": what, **fields}) + "\n"
    with Path(os.environ["WORKSHOP_LOG"]).open("a") as log:
        log.write(line)


@shared_task(name="canvas.give")  # type: ignore[untyped-decorator]
def give(value: Any, *more: Any) -> Any:
    """Return the last argument."""
    return more[-1] if more else value


@shared_task(name="canvas.collect")  # type: ignore[untyped-decorator]
def collect(results: Any, key: str) -> Any:
    """Write what arrived, and return it."""
    write(key, "collected", results=results)
    return results


@shared_task(name="canvas.total")  # type: ignore[untyped-decorator]
def total(numbers: list[int]) -> int:
    """Return the sum."""
    return sum(numbers)


@shared_task(name="canvas.refuse")  # type: ignore[untyped-decorator]
def refuse(*_: Any) -> None:
    """Fail for good."""
    raise PermanentError("as asked")


@shared_task(name="canvas.refuse_unless")  # type: ignore[untyped-decorator]
def refuse_unless(path: str, value: Any) -> Any:
    """Fail for good until a file is there."""
    if not Path(path).exists():
        raise PermanentError("as asked")
    return value


@shared_task(name="canvas.ignored")  # type: ignore[untyped-decorator]
def ignored(*_: Any) -> None:
    """End without a result."""
    raise Ignore


@shared_task(name="canvas.large")  # type: ignore[untyped-decorator]
def large(size: int) -> str:
    """Return so many characters."""
    return "z" * size


@shared_task(name="canvas.failed")  # type: ignore[untyped-decorator]
def failed(request: Any, error: BaseException, traceback: str, key: str) -> None:
    """An errback as Celery calls it."""
    write(key, "failed", error=f"{type(error).__module__}.{type(error).__name__}: {error}", id=request.id)


@shared_task(bind=True, name="canvas.become_group")  # type: ignore[untyped-decorator]
def become_group(self: "Task[Any, Any]", value: int) -> Any:
    """Be replaced by a group."""
    return self.replace(group(give.s(value), give.s(value + 1)))


@shared_task(bind=True, name="canvas.become_task")  # type: ignore[untyped-decorator]
def become_task(self: "Task[Any, Any]", value: int) -> Any:
    """Be replaced by another task."""
    return self.replace(give.s(value))


@shared_task(bind=True, name="canvas.add_one")  # type: ignore[untyped-decorator]
def add_one(self: "Task[Any, Any]", value: int) -> int:
    """Add a task to the header of its chord."""
    self.add_to_chord(give.s(value + 1))
    return value


@shared_task(bind=True, name="canvas.nest")  # type: ignore[untyped-decorator]
def nest(self: "Task[Any, Any]", value: int) -> Any:
    """Be replaced by a chord."""
    return self.replace(chord([give.s(value), give.s(value)], total.s()))


@shared_task(name="canvas.lengths")  # type: ignore[untyped-decorator]
def lengths(texts: list[str]) -> list[int]:
    """Return how long they are."""
    return [len(text) for text in texts]
