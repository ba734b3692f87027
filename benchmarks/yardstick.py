"""A yardstick for CPU time: a fixed piece of pure Python, measured while something else runs.

CPU time differs between machines, and on one machine with what its neighbours do. Its ratio to the
yardstick's differs much less.
"""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

#: Seconds between two measurements of the yardstick.
EVERY = 0.1

#: A message as a worker reads and writes them.
_MESSAGE = {f"key-{number}": {"id": str(number), "values": list(range(number))} for number in range(30)}


class Yardstick:
    """The CPU milliseconds of the workload, over all its runs so far."""

    def __init__(self) -> None:
        self._runs = 0
        self._seconds = 0.0

    def run(self) -> None:
        """Run the workload once more."""
        began = time.thread_time()
        _workload()
        self._seconds += time.thread_time() - began
        self._runs += 1

    @property
    def ms(self) -> float:
        """The mean of its runs."""
        return 1000 * self._seconds / self._runs


@contextmanager
def yardstick() -> Iterator[Yardstick]:
    """Run the workload again and again on a thread while the block runs: a few per cent of one core."""
    measured, ended = Yardstick(), threading.Event()
    measured.run()

    def repeat() -> None:
        while not ended.wait(EVERY):
            measured.run()

    thread = threading.Thread(target=repeat, name="yardstick", daemon=True)
    thread.start()
    try:
        yield measured
    finally:
        ended.set()
        thread.join()


def _workload() -> int:
    """Do what the measured processes do most: JSON, dictionaries, strings, calls. About 2 ms."""
    total = 0
    for _ in range(20):
        message = json.loads(json.dumps(_MESSAGE))
        for key, part in message.items():
            total += _checksum(f"{key}/{part['id']}", part["values"])
    return total


def _checksum(name: str, values: list[int]) -> int:
    found = len(name)
    for value in values:
        found = (found * 31 + value) % 65_521
    return found
