"""Batches: what threads bring one by one, gathered for a few threads that work it off together."""

import threading
import time
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")

#: Waiting for a batch to fill up must bring as many more items as this: a lone item is not held back.
WORTH_WAITING = 4


class Batches(Generic[T]):
    """One thread gathers at a time, so that a stream is not dealt out in small batches to all that are idle.

    An item wakes a thread only when it is the first of a batch, or fills it up: a wake-up costs more than
    most of what is done with an item.
    """

    def __init__(self, *, most: int, enough: int, linger: float) -> None:
        """Batches of at most ``most``; one of fewer than ``enough`` waits at most ``linger`` seconds."""
        self._most = most
        self._enough = enough
        self._linger = linger
        self._gathering = threading.Lock()
        self._changed = threading.Condition()
        self._items: deque[T] = deque()
        self._ended = False
        #: somebody waits for what is in the batch being gathered
        self._hurry = False
        #: items that came per second, lately
        self._rate = 0.0
        self._taken_at = time.monotonic()

    def put(self, item: T, *, hurry: bool = False) -> None:
        """Add an item. Never blocks. With ``hurry`` the batch it is in does not wait for more."""
        with self._changed:
            self._items.append(item)
            self._hurry |= hurry
            if hurry or len(self._items) in (1, self._enough):
                self._changed.notify()

    def end(self) -> None:
        """Nothing more will come: those who take get what is left, then nothing."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def take(self) -> list[T]:
        """The next batch; waits for one. Empty: ended, and nothing is left."""
        with self._gathering, self._changed:
            self._changed.wait_for(lambda: self._items or self._ended)
            if self._rate * self._linger >= WORTH_WAITING:
                self._changed.wait_for(self._is_due, self._linger)
            self._hurry = False
            batch = [self._items.popleft() for _ in range(min(self._most, len(self._items)))]
            self._note(len(batch))
            return batch

    def _is_due(self) -> bool:
        return len(self._items) >= self._enough or self._hurry or self._ended

    def _note(self, count: int) -> None:
        now = time.monotonic()
        elapsed, self._taken_at = max(now - self._taken_at, 1e-6), now
        # Weighed by time: a burst after a pause is no stream.
        weight = min(1.0, elapsed)
        self._rate += weight * (count / elapsed - self._rate)
