"""What tests of whole processes need: waiting for a condition, and knowing who still runs."""

import time
from collections.abc import Callable, Iterable

import psutil


def wait_until(condition: Callable[[], object], what: str, timeout: float = 20.0) -> None:
    """Return once ``condition`` is true; fail with ``what`` was awaited after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout:g} s: {what}"
        time.sleep(0.05)


def running(pids: Iterable[int]) -> list[int]:
    """Those of ``pids`` that are living processes; one that only waits to be reaped is not."""
    return [pid for pid in pids if _lives(pid)]


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
