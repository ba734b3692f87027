"""The bridge and the worker of the demonstration: the real commands, as processes of their own."""

import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.services.children import Children

#: ``celery -A pipeline …`` of the Python that runs the demonstration.
_CELERY = (sys.executable, "-m", "celery", "-A", "pipeline")
COMMANDS: Mapping[str, tuple[str, ...]] = {
    "bridge": (*_CELERY, "bridge"),
    "worker": (*_CELERY, "worker", "--loglevel", "WARNING"),
}

#: Lines of a process's log that are shown when it ended.
_TAIL = 15

#: How often one is started again before the demonstration gives up.
_RESTARTS = 5


class Processes:
    """Both processes. One that was killed is started again; one that ended by itself is an error."""

    def __init__(
        self,
        children: Children,
        environment: Mapping[str, str],
        folder: Path,
        say: Callable[[str], None],
    ) -> None:
        """``folder`` takes the logs. They run in it: a module in the user's might shadow one of ours."""
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
        """Start again what was killed; raise ``PipelineError`` with the end of its log for what ended."""
        for name, process in list(self._running.items()):
            code = process.poll()
            if code is None:
                continue
            # What it had started, a worker's pool, ends with it.
            self._children.end(process)
            if code >= 0 or self._starts[name] > _RESTARTS:
                raise PipelineError(f"The {name} ended with exit code {code}:\n{self._tail(name)}")
            self._say(f"{name} (pid {process.pid}) was killed by signal {-code}: starting it again")
            self._start(name)

    def logs(self) -> str:
        """The end of each log, for a message."""
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
        return "\n".join(f"    {line}" for line in lines) or "    (it logged nothing)"
