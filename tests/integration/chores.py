"""Tasks for tests of the control plane: named in TASK_MODULES, loaded by nothing else."""

import os
import time

from celery import shared_task

from pipeline import PermanentError, stage


@shared_task  # type: ignore[untyped-decorator]
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@shared_task  # type: ignore[untyped-decorator]
def nap(seconds: float) -> str:
    """Sleep, and tell a long story about it."""
    time.sleep(seconds)
    return "z" * 5_000


@shared_task  # type: ignore[untyped-decorator]
def wait_for(path: str) -> None:
    """Run until a file is there."""
    deadline = time.monotonic() + 120
    while not os.path.exists(path):
        if time.monotonic() > deadline:
            raise TimeoutError(f"nobody made {path}")
        time.sleep(0.02)


@shared_task  # type: ignore[untyped-decorator]
def fail(message: str) -> None:
    """Fail each time."""
    raise ValueError(message)


@stage(consumes="dishes", emits="clean-dishes")
def wash(dish: str) -> str:
    """Wash a dish."""
    if dish == "broken":
        raise PermanentError("it is broken")
    return f"clean {dish}"
