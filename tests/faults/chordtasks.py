"""The plain tasks of chords under faults. What runs writes lines to a file, as the stages do.

Named in TASK_MODULES, loaded by nothing else.
"""

import json
import os
import time
from typing import Any

from celery import shared_task
from celery._state import _task_stack

from pipeline import PermanentError


def note(path: str, what: str, key: int, **fields: Any) -> None:
    """Write a line, in one piece even if many processes write."""
    # An errback is called by the task that calls errbacks.
    info = _task_stack.stack[0].request.delivery_info or {}
    line = {"what": what, "key": key, "redelivered": bool(info.get("redelivered")), **fields}
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(descriptor, json.dumps(line).encode() + b"\n")
    finally:
        os.close(descriptor)


@shared_task(name="faults.header")  # type: ignore[untyped-decorator]
def header(value: int, seconds: float = 0.0, *, doomed: bool = False) -> int:
    """Take a moment; return the value, or fail for good."""
    time.sleep(seconds)
    if doomed:
        raise PermanentError("as the fault asks")
    return value


@shared_task(name="faults.body")  # type: ignore[untyped-decorator]
def body(results: list[int], path: str, key: int) -> None:
    """Write the results."""
    note(path, "body", key, results=results)


@shared_task(name="faults.errback")  # type: ignore[untyped-decorator]
def errback(request: Any, error: BaseException, traceback: str, path: str, key: int) -> None:
    """Write the error that Celery calls the errback of a body with."""
    note(path, "errback", key, error=type(error).__name__)
