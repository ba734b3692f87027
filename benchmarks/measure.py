"""Measuring a peer from outside: its queue's depth, its processes' CPU and memory, its requests."""

import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.rates import Middle, Sample, middle

#: Seconds between two looks.
EVERY = 0.1
#: Seconds without progress after which a run has failed.
STUCK_AFTER = 60.0
#: Seconds a peer has to end by itself.
GRACE = 30.0


class BenchmarkError(Exception):
    """A measurement that cannot be used; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One run."""

    middle: Middle
    #: The largest resident memory of the parent process, in MB.
    peak_memory_mb: float


class Watched:
    """A peer's processes. A child that ended keeps counting."""

    def __init__(self, pid: int) -> None:
        self._parent = psutil.Process(pid)
        self._cpu: dict[int, float] = {}
        self.peak = 0.0

    def cpu(self) -> float:
        """CPU seconds of all of them together."""
        for process in [self._parent, *self._children()]:
            try:
                times = process.cpu_times()
            except psutil.Error:
                continue
            self._cpu[process.pid] = times.user + times.system
        return sum(self._cpu.values())

    def memory(self) -> float:
        """Resident memory of the parent in MB, now."""
        now = self._parent.memory_info().rss / 2**20
        self.peak = max(self.peak, now)
        return now

    def _children(self) -> list[psutil.Process]:
        try:
            return self._parent.children(recursive=True)
        except psutil.Error:
            return []


@contextmanager
def started(
    command: Sequence[str], environment: Mapping[str, str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a peer in the block, its output in ``log``; it is ended afterwards, with all its children."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=dict(environment), stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
        try:
            yield process
        finally:
            _end(process)


def watch(
    process: subprocess.Popen[bytes],
    total: int,
    done: Callable[[], int],
    requests: Callable[[], int],
    log: Path,
) -> Measured:
    """Look at a peer's process until all ``total`` tasks or events are done."""
    watched = Watched(process.pid)
    samples: list[Sample] = []
    progress_at = time.monotonic()
    while not samples or samples[-1].done < total:
        if process.poll() not in (None, 0):
            raise BenchmarkError(f"the peer ended with {process.returncode}:\n{tail(log)}")
        count = done()  # first: a busy server lets it wait
        sample = Sample(at=time.monotonic(), done=count, cpu=watched.cpu(), requests=requests())
        if not samples or sample.done > samples[-1].done:
            progress_at = sample.at
        if sample.at - progress_at > STUCK_AFTER:
            raise BenchmarkError(f"{sample.done} of {total} tasks done, then none:\n{tail(log)}")
        samples.append(sample)
        watched.memory()
        time.sleep(EVERY)
    return Measured(middle=middle(samples, total), peak_memory_mb=watched.peak)


def _end(process: subprocess.Popen[bytes]) -> None:
    family = []
    try:
        parent = psutil.Process(process.pid)
        family = [parent, *parent.children(recursive=True)]
    except psutil.Error:
        pass
    process.terminate()
    try:
        process.wait(GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for left in family:
        if left.is_running():
            left.kill()


def tail(log: Path) -> str:
    """The last lines of a peer's output."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-20:])
