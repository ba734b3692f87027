"""Batches of items that many threads put one by one, for a few threads that handle them together."""

import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Generic, TypeVar

T = TypeVar("T")

#: Waiting for a batch to fill up must bring as many more items as this: a lone item is not held back.
WORTH_WAITING = 4


class Batches(Generic[T]):
    """A queue that gives out batches. One thread gathers at a time, so that a stream makes few large ones.

    An item wakes a thread only when it is the first of a batch, or fills it up: a wake-up costs more than
    most of what is done with an item.
    """

    def __init__(self, *, most: int, enough: int, linger: float) -> None:
        """A batch has at most ``most`` items; below ``enough`` it waits at most ``linger`` seconds."""
        self._most = most
        self._enough = enough
        self._linger = linger
        self._lock = threading.Lock()
        #: for threads without a batch: there are items, and none of them gathers
        self._arrived = threading.Condition(self._lock)
        #: for the thread that gathers: its batch may be due
        self._due = threading.Condition(self._lock)
        self._gathers = False
        self._items: deque[T] = deque()
        self._ended = False
        #: an item of the batch being gathered must not wait for more
        self._hurry = False
        #: an item of the batch being gathered is worth waiting for more, however few came lately
        self._more = False
        #: recent items per second
        self._rate = 0.0
        self._taken_at = time.monotonic()

    def put(self, item: T, *, hurry: bool = False, more: bool = False) -> None:
        """Add an item. Never blocks.

        With ``hurry`` the batch it is in does not wait for more; with ``more`` it does, until ``hurry_up``.
        """
        self.put_all((item,), hurry=hurry, more=more)

    def put_all(self, items: Sequence[T], *, hurry: bool = False, more: bool = False) -> None:
        """Add items that a batch should have together; see ``put``."""
        with self._lock:
            before = len(self._items)
            self._items.extend(items)
            self._hurry |= hurry
            self._more |= more
            if self._gathers:
                if hurry or before < self._enough <= len(self._items):
                    self._due.notify()
            elif not before:
                self._arrived.notify()

    def hurry_up(self) -> None:
        """Let the batch being gathered wait for no more."""
        with self._lock:
            self._hurry = True
            self._due.notify()

    def end(self) -> None:
        """Accept no more items: ``take`` returns what is left, then nothing."""
        with self._lock:
            self._ended = True
            self._due.notify()
            self._arrived.notify_all()

    def take(self) -> list[T]:
        """Wait for the next batch and return it; an empty one after ``end``, when nothing is left."""
        with self._lock:
            self._arrived.wait_for(self._is_free)
            if self._more or self._rate * self._linger >= WORTH_WAITING:
                self._gathers = True
                self._due.wait_for(self._is_due, self._linger)
                self._gathers = False
            self._hurry = self._more = False
            batch = [self._items.popleft() for _ in range(min(self._most, len(self._items)))]
            self._note(len(batch))
            if self._items or self._ended:  # at the end each thread wakes the next
                self._arrived.notify()
            return batch

    def _is_free(self) -> bool:
        return not self._gathers and bool(self._items or self._ended)

    def _is_due(self) -> bool:
        return len(self._items) >= self._enough or self._hurry or self._ended

    def _note(self, count: int) -> None:
        now = time.monotonic()
        elapsed, self._taken_at = max(now - self._taken_at, 1e-6), now
        # Weighed by time: a burst after a pause is no stream.
        weight = min(1.0, elapsed)
        self._rate += weight * (count / elapsed - self._rate)
