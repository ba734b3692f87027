"""The inbox of a connection: control messages on their way from a reader's thread to who consumes them."""

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

#: The most messages that wait. A reader stops reading meanwhile; Kafka holds the rest.
LIMIT = 1_000


class Inbox:
    """Messages by the queue they are for. Readers put, the connection's owner takes."""

    def __init__(self, on_arrival: Callable[[], None]) -> None:
        #: called, from a reader's thread, when there is something to take
        self._on_arrival = on_arrival
        self._messages: deque[tuple[str, dict[str, Any]]] = deque()
        self._changed = threading.Condition()
        self._closed: set[str] = set()

    def put(self, queue: str, message: dict[str, Any]) -> None:
        """Add a message; waits while the inbox is full. Dropped when its queue is closed."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._messages) < LIMIT or queue in self._closed)
            if queue in self._closed:
                return
            self._messages.append((queue, message))
        self._on_arrival()

    def take(self) -> tuple[str, dict[str, Any]] | None:
        """The oldest message and its queue; None when there is none."""
        with self._changed:
            if not self._messages:
                return None
            self._changed.notify_all()
            return self._messages.popleft()

    def open(self, queue: str) -> None:
        """Take messages for ``queue`` from now on."""
        with self._changed:
            self._closed.discard(queue)

    def close(self, queue: str) -> None:
        """Drop what waits for ``queue``, and what still comes."""
        with self._changed:
            self._closed.add(queue)
            kept = [entry for entry in self._messages if entry[0] != queue]
            self._messages.clear()
            self._messages.extend(kept)
            self._changed.notify_all()
