"""Followers: how many messages of a queue come behind another of their group, learned from receives."""

from collections import deque
from collections.abc import Sequence
from typing import Final

from pipeline.transport.lanes import Key

#: The most messages of one receive (ReceiveMessage, API reference).
RECEIVE_MOST: Final = 10
#: The weight of one message in the share: one full receive says nearly all about the next one.
WEIGHT: Final = 0.2
#: Groups of earlier receives that are remembered.
RECENT: Final = 10


class Followers:
    """The share of one queue's messages that are followers. No lock of its own.

    SQS delivers up to ten messages of a group in one receive, and no more of it until those are deleted.
    Followers use no slot, so a receive for one free slot may ask for ten where nine of them are followers.
    Where each message has its own group, nine of the ten would wait here while other workers are idle.
    """

    def __init__(self) -> None:
        self._share = 0.0
        self._recent: deque[Key] = deque(maxlen=RECENT)

    def note(self, lanes: Sequence[Key]) -> None:
        """Learn from one receive: ``lanes`` has the lane of each of its messages, in order."""
        seen = set(lanes[:1])
        # A lone message says nothing by itself, but it may be the next one of a group that was just here.
        hits = [key in self._recent for key in lanes] if len(lanes) == 1 else []
        for key in lanes[1:]:
            hits.append(key in seen)
            seen.add(key)
        for hit in hits:
            self._share += WEIGHT * (hit - self._share)
        self._recent.extend(key for key in seen if key not in self._recent)

    def messages_for(self, heads: int) -> int:
        """Return how many messages to ask for, so that about ``heads`` of them can start."""
        return min(RECEIVE_MOST, int(heads / (1 - min(self._share, 1 - 1 / RECEIVE_MOST)) + 1e-6))
