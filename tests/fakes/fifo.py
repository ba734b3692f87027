"""One SQS FIFO queue with its clock, as the documentation describes it; several workers may use it."""

import itertools
from dataclasses import dataclass

from pipeline.sqs import ReceivedMessage


@dataclass(eq=False)
class Stored:
    """A message in the queue."""

    message_id: str
    group: str
    visible_at: float = 0.0
    handle: str = ""
    receives: int = 0


class FifoQueue:
    """A group's messages come in order, and none while one of them is hidden. Old handles are refused."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.messages: list[Stored] = []
        self._numbers = itertools.count()

    def send(self, group: str) -> str:
        """Put a message at the end of ``group``; its id."""
        stored = Stored(f"m{next(self._numbers)}", group)
        self.messages.append(stored)
        return stored.message_id

    def receive(self, most: int, visibility: float) -> list[ReceivedMessage]:
        """Up to ``most`` messages, hidden for ``visibility`` seconds."""
        blocked = {stored.group for stored in self.messages if self.hidden(stored)}
        given = [stored for stored in self.messages if stored.group not in blocked][:most]
        for stored in given:
            stored.visible_at = self.now + visibility
            stored.handle = f"{stored.message_id}/{next(self._numbers)}"
            stored.receives += 1
        return [self._received(stored) for stored in given]

    def delete(self, handle: str) -> bool:
        """Delete by handle; False when it is no longer good."""
        stored = self._by_handle(handle)
        if stored is not None:
            self.messages.remove(stored)
        return stored is not None

    def change_visibility(self, handle: str, seconds: float) -> bool:
        """Hide for ``seconds`` from now; False when the handle is no longer good."""
        stored = self._by_handle(handle)
        if stored is not None:
            stored.visible_at = self.now + seconds
        return stored is not None

    def hidden(self, stored: Stored) -> bool:
        """Whether somebody holds it."""
        return stored.visible_at > self.now

    def holds(self, handle: str) -> bool:
        """Whether ``handle`` keeps its message hidden from others now."""
        return self._by_handle(handle) is not None

    def _by_handle(self, handle: str) -> Stored | None:
        return next((x for x in self.messages if x.handle == handle and self.hidden(x)), None)

    def _received(self, stored: Stored) -> ReceivedMessage:
        return ReceivedMessage(
            message_id=stored.message_id,
            receipt_handle=stored.handle,
            body="",
            group_id=stored.group,
            deduplication_id=stored.message_id,
            receive_count=stored.receives,
            sent_at=0.0,
            attributes={},
            requested_at=self.now,
        )
