"""Plain tasks whose results are kept, for tests of results: named in TASK_MODULES, loaded by nothing else."""

import os
import signal
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from celery import Task, shared_task
from celery.exceptions import Ignore

from pipeline import PermanentError

#: An exception as Celery writes it.
BY_HAND = {"exc_type": "ValueError", "exc_message": ["by hand"], "exc_module": "builtins"}
#: Seconds that a held run waits for the test.
HELD = 120.0


class OverdrawnError(Exception):
    """An error of this project's own."""

    def __init__(self, account: str, missing: int) -> None:
        super().__init__(account, missing)
        self.account = account
        self.missing = missing


def wait_for(path: str) -> None:
    """Wait until the test makes a file."""
    deadline = time.monotonic() + HELD
    while not Path(path).exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"nobody made {path}")
        time.sleep(0.02)


@shared_task  # type: ignore[untyped-decorator]
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@shared_task  # type: ignore[untyped-decorator]
def run_once(path: str) -> str:
    """Write a line, and return a value that no other run returns."""
    with open(path, "a") as lines:
        lines.write("run\n")
    return uuid.uuid4().hex


@shared_task  # type: ignore[untyped-decorator]
def typed() -> dict[str, Any]:
    """Return values that JSON alone has not."""
    return {"at": datetime(2026, 1, 2, tzinfo=UTC), "id": uuid.UUID(int=7), "text": "漢字 🦊"}


@shared_task  # type: ignore[untyped-decorator]
def overdraw(account: str) -> None:
    """Fail with an error of its own, for good."""
    raise OverdrawnError(account, 12)


@shared_task  # type: ignore[untyped-decorator]
def refuse(password: str) -> None:
    """Fail at once, with a secret in the traceback."""
    raise PermanentError(f"no such user, password={password}")


@shared_task(bind=True)  # type: ignore[untyped-decorator]
def again(self: "Task[Any, Any]", path: str) -> int:
    """Publish itself again, once."""
    if self.request.retries == 0:
        raise self.retry(exc=ValueError("not yet"), countdown=0.1)
    wait_for(path)
    return int(self.request.retries)


@shared_task(bind=True)  # type: ignore[untyped-decorator]
def step(self: "Task[Any, Any]", path: str) -> str:
    """Tell how far it is, wait, and end."""
    self.update_state(state="PROGRESS", meta={"done": 3})
    wait_for(path)
    return "done"


@shared_task(track_started=True)  # type: ignore[untyped-decorator]
def tracked(path: str) -> None:
    """Run until the test goes on."""
    wait_for(path)


@shared_task  # type: ignore[untyped-decorator]
def fail_until(path: str) -> str:
    """Fail until a file is there."""
    if not Path(path).exists():
        raise ConnectionError("away")
    return "in the end"


@shared_task  # type: ignore[untyped-decorator]
def parent(numbers: list[int]) -> str:
    """Publish others."""
    for number in numbers:
        add.delay(number, 1)
    return "published"


@shared_task  # type: ignore[untyped-decorator]
def object_of_its_own() -> object:
    """Return what is not JSON."""
    return object()


@shared_task  # type: ignore[untyped-decorator]
def large(size: int) -> str:
    """Return a long text."""
    return "z" * size


@shared_task  # type: ignore[untyped-decorator]
def die() -> None:
    """Kill the process that runs it."""
    os.kill(os.getpid(), signal.SIGKILL)


@shared_task  # type: ignore[untyped-decorator]
def leave() -> None:
    """Ask the process to end."""
    raise SystemExit(3)


@shared_task(ignore_result=True)  # type: ignore[untyped-decorator]
def unkept(path: str) -> str:
    """Run without a result."""
    Path(path).touch()
    return "nobody asks"


@shared_task(bind=True)  # type: ignore[untyped-decorator]
def own_end(self: "Task[Any, Any]") -> None:
    """Say itself how it ended, as Celery's documentation shows."""
    self.update_state(state="FAILURE", meta=BY_HAND)
    raise Ignore
