"""Processes that end with the command that started them, however that one ends.

``python -m pipeline.services.children`` is the keeper: it reads the ids of the process groups and,
when its parent is gone, ends those that are left.
"""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from pipeline.services.parent import end_keeper, start_keeper, wait_for_parent_end
from pipeline.services.process import POLL

#: Seconds processes have to end by themselves; a worker puts back what it holds.
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
        """Start ``command``, both its outputs on ``output`` (subprocess.PIPE: read it from the result)."""
        process = subprocess.Popen(
            command,
            env=environment,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            # Ctrl-C reaches the command only, which then ends these in order.
            start_new_session=True,
        )
        self._tell(str(process.pid))
        self._running.append(process)
        return process

    def stop(self, grace: float = GRACE) -> None:
        """Ask all to end, wait ``grace`` seconds for them together, then kill what is left of each group."""
        for process in self._running:
            # The leader alone: a worker's pool is ended by its worker, after its tasks.
            process.terminate()
        deadline = time.monotonic() + grace
        for process in list(self._running):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
            self.end(process)

    def end(self, process: subprocess.Popen[bytes]) -> int:
        """Kill what is left of a process and its group; its exit code, or minus the signal that ended it."""
        _signal_group(process.pid, signal.SIGKILL)
        code = process.wait()
        with contextlib.suppress(ValueError):  # ended before
            self._running.remove(process)
            self._tell(f"-{process.pid}")
        return code

    def _tell(self, line: str) -> None:
        self._keeper.write(f"{line}\n".encode())
        self._keeper.flush()


@contextlib.contextmanager
def children() -> Iterator[Children]:
    """Give a ``Children`` whose processes are ended after the block, or after kill -9 of this process."""
    keeper = start_keeper(__spec__.name)
    assert keeper.stdin is not None
    started = Children(keeper.stdin)
    try:
        yield started
    finally:
        started.stop()
        end_keeper(keeper)


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
