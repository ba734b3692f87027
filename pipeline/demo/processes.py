"""The bridge and the worker of the demo, as processes."""

import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.services.children import Children

#: ``celery -A pipeline …`` of the running Python.
_CELERY = (sys.executable, "-m", "celery", "-A", "pipeline")
COMMANDS: Mapping[str, tuple[str, ...]] = {
    "bridge": (*_CELERY, "bridge"),
    "worker": (*_CELERY, "worker", "--loglevel", "WARNING"),
}

#: Lines of a process's log that an error shows.
_TAIL = 15

#: Restarts of one process before the demo fails.
_RESTARTS = 5


class Processes:
    """Both processes. A killed one is restarted; one that ended by itself is an error."""

    def __init__(
        self,
        children: Children,
        environment: Mapping[str, str],
        folder: Path,
        say: Callable[[str], None],
    ) -> None:
        """``folder``: for the logs; the processes run in it: the user's may have modules that shadow ours."""
        self._children = children
        self._environment = environment
        self._folder = folder
        self._say = say
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._starts: dict[str, int] = {}

    def start(self) -> None:
        """Start both."""
        for name in COMMANDS:
            self._start(name)

    def check(self) -> None:
        """Restart a killed process; raise ``PipelineError`` with the end of its log for one that ended."""
        for name, process in list(self._running.items()):
            code = process.poll()
            if code is None:
                continue
            # Its children, a worker's pool, end with it.
            self._children.end(process)
            if code >= 0 or self._starts[name] > _RESTARTS:
                raise PipelineError(f"The {name} ended with exit code {code}:\n{self._tail(name)}")
            self._say(f"{name} (pid {process.pid}) was killed by signal {-code}: restarting it")
            self._start(name)

    def logs(self) -> str:
        """Return the end of each log, for a message."""
        return "\n".join(f"{name}:\n{self._tail(name)}" for name in self._running)

    def _start(self, name: str) -> None:
        with self._log(name).open("ab") as log:
            process = self._children.start(
                COMMANDS[name], environment=self._environment, output=log, folder=self._folder
            )
        self._running[name] = process
        self._starts[name] = self._starts.get(name, 0) + 1
        self._say(f"{name} started (pid {process.pid})")

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.log"

    def _tail(self, name: str) -> str:
        lines = self._log(name).read_text(errors="replace").splitlines()[-_TAIL:]
        return "\n".join(f"    {line}" for line in lines) or "    (the log is empty)"
