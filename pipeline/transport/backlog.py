"""The backlog: the newest of the events that were there before anybody listened."""

from collections import deque
from collections.abc import Iterator

from pipeline.kafka import Message
from pipeline.transport.controlmessage import count_events

#: The most events of the past that are handed out. Flower takes in 6,000 to 29,000 a second [measured], on
#: the loop that also answers its pages, and shows 100,000 tasks at most.
MOST = 50_000


class Backlog:
    """Records in their order; the oldest give way to the newest."""

    def __init__(self) -> None:
        self._records: deque[tuple[Message, int]] = deque()
        self._events = 0

    def add(self, message: Message) -> None:
        """Keep a record."""
        events = count_events(message.value or b"")
        self._records.append((message, events))
        self._events += events
        while self._events > MOST:
            self._events -= self._records.popleft()[1]

    def take_all(self) -> Iterator[Message]:
        """The records, the oldest first; they are kept no longer."""
        while self._records:
            yield self._records.popleft()[0]
        self._events = 0
