"""One loop child and what it runs, in the parent process."""

import os
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import billiard

from pipeline.worker.child import loopchild
from pipeline.worker.child.loopframes import CallOff, Frames, Order, Report, Run, frame
from pipeline.worker.child.outcome import Outcome

#: Bytes read at a time.
READ = 1 << 16


class PoolRun:
    """A run given to a loop child, as Celery's pools return it."""

    def __init__(
        self,
        order: Run,
        *,
        on_accepted: Callable[[int, float], None],
        on_outcome: Callable[[Outcome], None],
        on_killed: Callable[[float], None],
        limit: float | None,
    ) -> None:
        """``on_killed`` is called where the child was killed because this run outlived its hard ``limit``."""
        self.order = order
        self.on_accepted, self.on_outcome, self.on_killed = on_accepted, on_outcome, on_killed
        self.limit = limit
        self._child: LoopChildProcess | None = None
        self._since = 0.0

    def given_to(self, child: "LoopChildProcess") -> None:
        """Note the child, and that the time of the run counts from now."""
        self._child = child
        self.restart_clock()

    def restart_clock(self) -> None:
        """Count its time from now: it has begun."""
        self._since = time.monotonic()

    def is_overdue(self, grace: float) -> bool:
        """Whether it outlived its hard limit by more than ``grace`` seconds."""
        return self.limit is not None and time.monotonic() > self._since + self.limit + grace

    def terminate(self, signum: int) -> None:
        """Cancel it in its child, whatever the signal: the process has other runs."""
        if self._child is not None:
            self._child.send(CallOff(number=self.order.number))


class LoopChildProcess:
    """The process, the socket to it, and its runs."""

    def __init__(self, app: Any, hostname: str, most: int) -> None:
        """Fork it."""
        ours, its = socket.socketpair()
        # Always forked: what it needs of the app is not to be pickled.
        self._process = billiard.get_context("fork").Process(
            target=loopchild.main, args=(app, hostname, its, most), daemon=True
        )
        self._process.start()
        its.close()
        ours.setblocking(False)
        self.reader = ours
        #: another descriptor of the same socket: an event loop has one entry for each
        self.writer = ours.dup()
        self.runs: dict[int, PoolRun] = {}
        #: how many runs it was given
        self.given = 0
        #: whether the socket is open
        self.is_open = True
        self._started_at = time.monotonic()
        #: the run for which it was killed
        self.killed_for: PoolRun | None = None
        self._frames = Frames()
        self._unsent: deque[memoryview] = deque()
        self._sending = threading.Lock()

    @property
    def pid(self) -> int:
        """The id of the process."""
        return int(self._process.pid)

    @property
    def age(self) -> float:
        """Seconds since its start."""
        return time.monotonic() - self._started_at

    def give(self, run: PoolRun) -> None:
        """Give it a run to start."""
        self.runs[run.order.number] = run
        self.given += 1
        run.given_to(self)
        self.send(run.order)

    def send(self, order: Order) -> None:
        """Send an order, or as much of it as goes now: the rest goes with ``flush``.

        It may be called from a signal handler.
        """
        self._unsent.append(memoryview(frame(order)))
        self.flush()

    def flush(self) -> bool:
        """Send what is left; whether that was all. What a dead child did not read is lost."""
        if not self._sending.acquire(blocking=False):
            return True  # by the one that sends already
        try:
            while self._unsent:
                head = self._unsent[0]
                sent = self.writer.send(head)
                if sent < len(head):
                    self._unsent[0] = head[sent:]
                else:
                    self._unsent.popleft()
        except BlockingIOError:
            return False
        except OSError:
            self._unsent.clear()
        finally:
            self._sending.release()
        return True

    def reports(self) -> Iterator[Report] | None:
        """Return what it sent; None where it is gone."""
        try:
            data = self.reader.recv(READ)
        except BlockingIOError:
            return iter(())
        except OSError:
            return None
        return self._frames.feed(data) if data else None

    def kill(self) -> None:
        """End the process at once."""
        if self._process.is_alive():
            os.kill(self.pid, signal.SIGKILL)

    def close(self, timeout: float | None = None) -> int | None:
        """Wait until the process has ended, after ``timeout`` by force; return its exit code."""
        self._process.join(timeout)
        self.kill()
        self._process.join()
        self.is_open = False
        self.reader.close()
        self.writer.close()
        code: int | None = self._process.exitcode
        return code
