"""Timers of Celery's event loop: those that were cancelled are let go."""

import heapq
from typing import Any

#: Seconds between two looks.
EVERY = 10.0


def drop_cancelled(timer: Any) -> None:
    """Take the cancelled entries out of a kombu ``Timer``. Called on its own event loop.

    Each task with a time limit makes an entry, and kombu keeps it until the limit is over, though the task
    ended long before: at 1,000 tasks a second and limits of an hour, millions of them.
    """
    left = [entry for entry in timer._queue if not entry.entry.canceled]
    if len(left) < len(timer._queue):
        heapq.heapify(left)
        timer._queue[:] = left  # the loop's iterator holds the list itself
