"""A server process that outlives the command that started it, identified by a locked pid file."""

import contextlib
import fcntl
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import ServiceUnavailableError

#: Writes the shell's process id to the file, then becomes the server: the file is correct from the start.
_BECOME = 'echo $$ >"$0" && exec "$@"'

#: Seconds for a killed process to end; longer means that it hangs in the kernel.
KILL_TIMEOUT = 10.0

#: Seconds between two checks of another process.
POLL = 0.05


@dataclass(frozen=True, kw_only=True)
class ServerProcess:
    """A server by its pid file, which the server keeps locked while it lives.

    The lock is inherited over exec and ends with the process, so a pid that the system reuses is never taken
    for the server's.
    """

    #: The name of its files.
    name: str
    #: The folder of ``<name>.pid`` and ``<name>.log``.
    folder: Path

    @property
    def log_file(self) -> Path:
        """The file with the server's standard output and error."""
        return self.folder / f"{self.name}.log"

    def start(self, command: Sequence[str]) -> None:
        """Start ``command`` in a session of its own; do nothing if the server already runs."""
        with self._pid_file() as lock, self.log_file.open("ab") as log:
            if not _lock(lock):
                return
            os.ftruncate(lock, 0)
            # A shell starts it in the background and ends: no process has to wait for it.
            subprocess.run(
                ["sh", "-c", '"$@" &', "sh", "sh", "-c", _BECOME, str(self._pid_path), *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[lock],
                start_new_session=True,
                check=True,
            )

    def pid(self) -> int | None:
        """Return the server's process id; None if it does not run."""
        while self.is_running():
            if text := self._pid_path.read_text().strip():
                return int(text)
            time.sleep(POLL)  # between the start of its shell and the shell's first line
        return None

    def is_running(self) -> bool:
        """Whether the server's process lives."""
        if not self._pid_path.exists():
            return False
        with self._pid_file() as lock:
            return not _lock(lock)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal if it runs."""
        if (pid := self.pid()) is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def log_tail(self, lines: int = 15) -> str:
        """Return the last lines of its log."""
        with contextlib.suppress(FileNotFoundError):
            return "\n".join(self.log_file.read_text(errors="replace").splitlines()[-lines:])
        return ""

    @property
    def _pid_path(self) -> Path:
        return self.folder / f"{self.name}.pid"

    @contextlib.contextmanager
    def _pid_file(self) -> Iterator[int]:
        descriptor = os.open(self._pid_path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            yield descriptor
        finally:
            os.close(descriptor)


def stop(servers: Sequence[ServerProcess], grace: float) -> None:
    """Terminate all, wait ``grace`` seconds for them together, then kill the rest.

    Raises ServiceUnavailableError for a process that survives.
    """
    for server in servers:
        server.signal(signal.SIGTERM)
    left = _wait_for_end(servers, grace)
    for server in left:
        server.signal(signal.SIGKILL)
    if left := _wait_for_end(left, KILL_TIMEOUT):
        names = ", ".join(f"{server.name} (pid {server.pid()})" for server in left)
        raise ServiceUnavailableError(f"Not ended {KILL_TIMEOUT:g} s after SIGKILL: {names}.")


def _wait_for_end(servers: Sequence[ServerProcess], timeout: float) -> list[ServerProcess]:
    """Return those that still run after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while (left := [server for server in servers if server.is_running()]) and time.monotonic() < deadline:
        time.sleep(POLL)
    return left


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
