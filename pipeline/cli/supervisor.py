"""A supervisor of several commands: one prefixed log, until one of them ends or a signal comes.

honcho's own manager is not used: it signals whole process groups, which would kill a worker's running
tasks, and kills after five seconds, before a worker has put back what it holds.
"""

import datetime
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass

from honcho.colour import get_colours
from honcho.printer import Message, Printer

from pipeline.services.children import GRACE, Children
from pipeline.telemetry.logs import terminal_line

SYSTEM = "system"


@dataclass(frozen=True, kw_only=True)
class _Line:
    """One line of a command's output."""

    name: str
    data: bytes


@dataclass(frozen=True, kw_only=True)
class _Ended:
    """A command and its child processes have ended."""

    name: str
    #: Its exit code, or minus the signal that killed it.
    code: int


@dataclass(frozen=True, kw_only=True)
class _Signal:
    """This process received a signal to end."""

    number: int


class Supervisor:
    """The running commands and their output. It restarts nothing."""

    def __init__(self, children: Children, terminal: bool) -> None:
        """``terminal``: a person reads the output, so JSON log lines are made readable."""
        self._children = children
        self._terminal = terminal
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        # Its put() may be called from a signal handler in the middle of another put().
        self._events: queue.SimpleQueue[_Line | _Ended | _Signal] = queue.SimpleQueue()
        self._printer = Printer(sys.stdout)
        self._printer.width = len(SYSTEM)
        self._next_colour = get_colours()
        self._colours: dict[str, str] = {}
        self._exit_code: int | None = None
        #: When commands that still run are killed; None until asked to end.
        self._deadline: float | None = None

    def start(self, name: str, command: str, environment: Mapping[str, str]) -> None:
        """Start a shell command under ``name``."""
        # exec: signals then reach the command, not a shell around it.
        process = self._children.start(
            ["sh", "-c", f"exec {command}"], environment=environment, output=subprocess.PIPE
        )
        self._running[name] = process
        self._colours[name] = next(self._next_colour)
        self._printer.width = max(self._printer.width, len(name))
        threading.Thread(target=self._follow, args=(name, process), daemon=True).start()
        self._say(f"{name} started (pid {process.pid})")

    def run(self) -> int:
        """Print their output until all have ended; return the exit code: 1 when one ended by itself."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, _frame: self._events.put(_Signal(number=number)))
        while self._running:
            self._handle_next()
        return self._exit_code or 0

    def _handle_next(self) -> None:
        wait = None if self._deadline is None else max(0.0, self._deadline - time.monotonic())
        try:
            event = self._events.get(timeout=wait)
        except queue.Empty:
            self._say(f"killing {', '.join(self._running)}: still running after {GRACE:g} s")
            self._kill()
            return
        match event:
            case _Line():
                self._print_line(event)
            case _Ended():
                self._handle_end(event)
            case _Signal():
                self._handle_signal(event)

    def _handle_end(self, event: _Ended) -> None:
        del self._running[event.name]
        how = f"with exit code {event.code}" if event.code >= 0 else f"by {signal.Signals(-event.code).name}"
        self._say(f"{event.name} ended {how}")
        if self._exit_code is None:
            self._exit_code = 1
            self._terminate()

    def _handle_signal(self, event: _Signal) -> None:
        if self._exit_code is None:
            self._exit_code = 128 + event.number
            self._terminate()
        else:
            self._say(f"killing {', '.join(self._running)}")
            self._kill()

    def _terminate(self) -> None:
        self._deadline = time.monotonic() + GRACE
        if self._running:
            self._say(f"stopping {', '.join(self._running)}; Ctrl-C again kills")
        for process in self._running.values():
            process.terminate()

    def _kill(self) -> None:
        self._deadline = None
        for process in self._running.values():
            self._children.end(process)

    def _follow(self, name: str, process: subprocess.Popen[bytes]) -> None:
        reader = threading.Thread(target=self._read, args=(name, process), daemon=True)
        reader.start()
        code = process.wait()
        # Processes that it leaves behind would keep its output open.
        self._children.end(process)
        reader.join()
        self._events.put(_Ended(name=name, code=code))

    def _read(self, name: str, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                self._events.put(_Line(name=name, data=line))

    def _print_line(self, line: _Line) -> None:
        if not self._terminal:
            self._print(line.name, line.data, self._colours[line.name])
            return
        for text in terminal_line(line.data.decode(errors="replace").rstrip("\n")).splitlines():
            self._print(line.name, text.encode(), self._colours[line.name])

    def _say(self, text: str) -> None:
        self._print(SYSTEM, text.encode(), None)

    def _print(self, name: str, data: bytes, colour: str | None) -> None:
        now = datetime.datetime.now()
        self._printer.write(Message(type="line", data=data, time=now, name=name, colour=colour))
