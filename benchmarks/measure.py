"""Measurement of a peer from outside: its queue's depth, its processes' CPU and memory, its requests."""

import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.rates import Middle, Sample, middle

Process = subprocess.Popen[bytes]

#: Seconds between two samples.
EVERY = 0.1
#: Seconds without progress after which a run has failed.
STUCK_AFTER = 60.0
#: Seconds for a peer to end by itself.
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
    """The processes of a peer. The CPU of ended children stays counted."""

    def __init__(self, pids: Sequence[int]) -> None:
        self._parents = [psutil.Process(pid) for pid in pids]
        self._cpu: dict[int, float] = {}
        self.peak = 0.0
        self.child_peak = 0.0

    def cpu(self) -> float:
        """Return the CPU seconds of all of them together."""
        for process in _family(self._parents):
            try:
                times = process.cpu_times()
            except psutil.Error:
                continue
            self._cpu[process.pid] = times.user + times.system
        return sum(self._cpu.values())

    def parents_cpu(self) -> float:
        """Return the part of the last ``cpu()`` that the parents used."""
        return sum(self._cpu[parent.pid] for parent in self._parents)

    def memory(self) -> float:
        """Return the resident memory of the largest parent in MB."""
        now = max(parent.memory_info().rss for parent in self._parents) / 2**20
        self.peak = max(self.peak, now)
        return now

    def child_memory(self) -> float:
        """Return the resident memory of the largest child in MB; 0 without one."""
        now = 0.0
        for process in _family(self._parents)[len(self._parents) :]:
            with suppress(psutil.Error):
                now = max(now, process.memory_info().rss / 2**20)
        self.child_peak = max(self.child_peak, now)
        return now


@contextmanager
def spawn(command: Sequence[str], environment: Mapping[str, str], log: Path) -> Iterator[Process]:
    """Run a peer for the block, its output in ``log``; end it and all its children afterwards."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=dict(environment), stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
        try:
            yield process
        finally:
            _end(process)


def watch(
    processes: Sequence[Process],
    total: int,
    done: Callable[[], int],
    requests: Callable[[], int],
    log: Path,
) -> Measured:
    """Sample a peer's processes until all ``total`` tasks or events are done."""
    watched = Watched([process.pid for process in processes])
    samples: list[Sample] = []
    progress_at = time.monotonic()
    while not samples or samples[-1].done < total:
        for process in processes:
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


def _end(process: Process) -> None:
    family = _family([psutil.Process(process.pid)]) if process.poll() is None else []
    process.terminate()
    try:
        process.wait(GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for left in family:
        if left.is_running():
            left.kill()


def _family(parents: Sequence[psutil.Process]) -> list[psutil.Process]:
    found = list(parents)
    for parent in parents:
        with suppress(psutil.Error):
            found += parent.children(recursive=True)
    return found


def tail(log: Path) -> str:
    """Return the last lines of a peer's output."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-20:])
