"""The counters of a worker's tasks, for its heartbeat: of every task, whether its events are sent or not."""

import threading
import time
from collections import Counter
from collections.abc import Iterable
from typing import Any, Final

from pipeline.control.taskcounts import COUNTED_SINCE, MOST_COUNTED, TASKS, TaskCount

#: Task events of a run that failed. They are always sent: of a job outside the sample, too.
FAILURES: Final = frozenset({"task-failed", "task-retried"})


class TaskCounts:
    """Counts ends of runs by the task's name, since the worker's start. Threads may share it."""

    def __init__(self) -> None:
        self._since = time.time()
        self._lock = threading.Lock()
        self._done: Counter[str] = Counter()
        self._failed: Counter[str] = Counter()

    def take(self, kind: str, name: str, *, has_run: bool) -> None:
        """Count what the task event of type ``kind`` tells; ``has_run``: not a task that was done before."""
        if kind == "task-succeeded" and has_run:
            self._add(self._done, name)
        elif kind in FAILURES:
            self._add(self._failed, name)

    def fields(self, running: Iterable[str]) -> dict[str, Any]:
        """Return the fields of a worker event. ``running``: the name of the task of each run under way.

        There are no counters, and readers count events, where tasks have too many names: a message names its
        task's ``shadow`` as it likes.
        """
        under_way = Counter(running)
        with self._lock:
            names = self._done.keys() | self._failed.keys() | under_way.keys()
            counts = {
                name: TaskCount(self._done[name], self._failed[name], under_way[name]) for name in names
            }
        return {TASKS: counts if len(counts) <= MOST_COUNTED else None, COUNTED_SINCE: self._since}

    def _add(self, counter: Counter[str], name: str) -> None:
        with self._lock:
            if name in counter or len(counter) <= MOST_COUNTED:
                counter[name] += 1
