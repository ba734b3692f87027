"""Helpers for tests of whole processes: wait for a condition, find running processes."""

import sys
import time
from collections.abc import Callable, Iterable

import psutil

from pipeline.services import local

#: Seconds that a test waits for what must happen. A busy machine takes ten times as long as a quiet one; only
#: a test that fails waits this long.
PATIENCE = 60.0

#: The command of a bridge that does not sweep: a sweep holds the dead letters for a second, and nobody else
#: sees them meanwhile.
UNSWEPT_BRIDGE = (
    sys.executable,
    "-c",
    "import sys; from pipeline.deadletters import periodicsweep; periodicsweep._run = lambda *_: None; "
    "from celery.__main__ import main; sys.argv = ['celery', '-A', 'pipeline', 'bridge']; main()",
)


def wait_until(condition: Callable[[], object], what: str, timeout: float = PATIENCE) -> None:
    """Return once ``condition`` is true; fail with ``what`` was awaited after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout:g} s: {what}"
        time.sleep(0.05)


def free_port() -> int:
    """Return a port that nothing listens at, below those that the system gives to connections meanwhile."""
    return local.free_port(())


def running(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Those that live; one that only waits to be reaped does not.

    Processes, not numbers: the system gives an ended process's number to another one before a long test is
    over, and a number that is killed or counted then is somebody else's.
    """
    return [process for process in processes if _lives(process)]


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
