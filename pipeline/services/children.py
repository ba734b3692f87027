"""Child processes that end with the command that started them, even after kill -9.

``python -m pipeline.services.children`` is their keeper: it reads the ids of the process groups and ends the
remaining ones when its parent is gone.
"""

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from pipeline.services.process import POLL

#: Seconds for processes to end by themselves; a worker returns its tasks.
GRACE = 20.0


class Children:
    """The processes of one command, each the leader of its own group and session."""

    def __init__(self, keeper: IO[bytes]) -> None:
        self._keeper = keeper
        self._running: list[subprocess.Popen[bytes]] = []

    def start(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        output: int | IO[bytes],
        folder: Path | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start ``command`` with both outputs on ``output`` (subprocess.PIPE: read it from the result)."""
        process = subprocess.Popen(
            command,
            env=environment,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            # Ctrl-C reaches the command only, which then stops these in order.
            start_new_session=True,
        )
        self._report(str(process.pid))
        self._running.append(process)
        return process

    def stop(self, grace: float = GRACE) -> None:
        """Terminate all, wait ``grace`` seconds for them together, then kill the rest of each group."""
        for process in self._running:
            # The leader alone: a worker stops its pool after its tasks.
            process.terminate()
        deadline = time.monotonic() + grace
        for process in list(self._running):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
            self.end(process)

    def end(self, process: subprocess.Popen[bytes]) -> int:
        """Kill the rest of a process and its group; return its exit code, or minus its signal."""
        _signal_group(process.pid, signal.SIGKILL)
        code = process.wait()
        with contextlib.suppress(ValueError):  # ended before
            self._running.remove(process)
            self._report(f"-{process.pid}")
        return code

    def _report(self, line: str) -> None:
        self._keeper.write(f"{line}\n".encode())
        self._keeper.flush()


@contextlib.contextmanager
def children() -> Iterator[Children]:
    """Give a ``Children`` whose processes end after the block, or after kill -9 of this process."""
    keeper = start_keeper(__spec__.name)
    assert keeper.stdin is not None
    started = Children(keeper.stdin)
    try:
        yield started
    finally:
        started.stop()
        end_keeper(keeper)


# ─── Keepers: processes that clean up after this one ───


def start_keeper(module: str, *arguments: str) -> "subprocess.Popen[bytes]":
    """Start ``module`` as a process that cleans up when this one ends, or closes the pipe to its input."""
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        stdin=subprocess.PIPE,
        # It outlives this process for a moment: a reader of our output must not wait for it.
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # A session of its own: Ctrl-C must not end the process that cleans up after it.
        start_new_session=True,
    )


def end_keeper(keeper: "subprocess.Popen[bytes]") -> None:
    """Make it clean up now, and wait until it has."""
    assert keeper.stdin is not None
    keeper.stdin.close()
    keeper.wait()


def wait_for_parent_end() -> str:
    """Return what the parent wrote, once it closes our standard input or is gone (kill -9 included).

    The end of input alone is not enough: a process forked by the parent may keep the pipe open.
    """
    parent, written = os.getppid(), b""
    while os.getppid() == parent:
        readable, _, _ = select.select([sys.stdin], [], [], 1.0)
        if readable:
            if not (read := os.read(sys.stdin.fileno(), 4096)):
                break
            written += read
    return written.decode()


def _keep() -> None:
    written = [int(line) for line in wait_for_parent_end().split()]
    groups = [group for group in written if group > 0 and -group not in written]
    for leader in groups:
        with contextlib.suppress(ProcessLookupError):
            os.kill(leader, signal.SIGTERM)
    deadline = time.monotonic() + GRACE
    while any(_lives(leader) for leader in groups) and time.monotonic() < deadline:
        time.sleep(POLL)
    for group in groups:
        _signal_group(group, signal.SIGKILL)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _signal_group(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


if __name__ == "__main__":
    _keep()
