"""Arrivals: finished works on their way to settlement, those of a lane together and in order."""

import threading
from collections.abc import Iterable

from pipeline.transport.batches import Batches
from pipeline.transport.lanes import Key
from pipeline.worker.settle.work import Work

#: The most lanes settled together.
BATCH = 100
#: Fewer than DynamoDB writes in one request wait this long for more (seconds), while tasks come fast or the
#: next of a lane runs. Measured at 1,000 tasks/s: half the requests of 0.01.
ENOUGH, LINGER = 25, 0.02


class Arrivals:
    """Gives out batches of works to several threads. A lane is in one batch at a time.

    So the works of a lane are emitted and recorded in their order: its next batch begins only when nothing of
    the one before is unanswered.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._batches: Batches[Key] = Batches(most=BATCH, enough=ENOUGH, linger=LINGER)
        #: by lane, those that no batch has yet
        self._waiting: dict[Key, list[Work]] = {}
        #: lanes that a batch under way has
        self._taken: set[Key] = set()

    def put(self, work: Work, *, hurry: bool, more: bool) -> None:
        """Add a work. Never blocks.

        ``hurry``: the next of its lane waits for it. ``more``: the next of its lane runs meanwhile.
        """
        key = work.lease.lane
        with self._lock:
            waiting = self._waiting.setdefault(key, [])
            waiting.append(work)
            if key in self._taken:
                return
            if len(waiting) == 1:
                self._batches.put(key, hurry=hurry, more=more)
            elif not more:
                # The last of several: SQS delivers nothing more of the group until all are deleted.
                self._batches.hurry_up()

    def take(self) -> list[Work]:
        """Wait for the next batch and return it; an empty one after ``end``, when nothing is left.

        Call ``done`` with it.
        """
        keys = self._batches.take()
        with self._lock:
            self._taken.update(keys)
            return [work for key in keys for work in self._waiting.pop(key)]

    def done(self, works: Iterable[Work]) -> None:
        """Note that a batch is settled: what arrived of its lanes meanwhile may be taken."""
        keys = {work.lease.lane for work in works}
        with self._lock:
            self._taken -= keys
            for key in keys & self._waiting.keys():
                self._batches.put(key, hurry=True)

    def end(self) -> None:
        """Accept no more works."""
        self._batches.end()
