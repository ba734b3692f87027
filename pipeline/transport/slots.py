"""Slots: how many messages a worker runs at a time, in its pool and on its loops, and holds for them."""

from collections.abc import Iterable
from typing import Final

from pipeline.transport.capacity import Capacity

#: The weight of one message in a queue's share of runs on loops: some twenty say nearly all about the next.
WEIGHT: Final = 0.2
#: The least share of either kind that is expected of a queue with both.
LEAST: Final = 0.02


class Slots:
    """The slots of one kind of runs: those of the pool, or those of the loops. No lock of its own."""

    def __init__(self, count: int) -> None:
        self.count = count
        #: how many are taken, by messages delivered
        self.taken = 0
        self._capacity = Capacity()

    def free_one(self, *, has_run: bool) -> None:
        """Note that a message delivered has left its slot; ``has_run``: because its run is over."""
        self.taken -= 1
        if has_run:
            self._capacity.run_finished()

    @property
    def is_free(self) -> bool:
        """Whether another message may be delivered."""
        return self.taken < self.count

    def wanted(self) -> int:
        """Return how many messages to hold, delivered or ready, so that the slots stay full."""
        return self._capacity.wanted(self.count)

    def most(self) -> int:
        """Return how many messages may be held before the rest goes back to other workers."""
        return self._capacity.most(self.count)


class LoopSlots(Slots):
    """Those of the loops: very many, so that their number is no measure of what to hold ahead.

    Without messages ahead each run that ends would be followed by a receive of one message.
    """

    def wanted(self) -> int:
        """Return how many messages to hold, delivered or ready, so that the slots stay full."""
        return self.count + self._capacity.wanted(0)

    def most(self) -> int:
        """Return how many messages may be held before the rest goes back to other workers."""
        return self.count + self._capacity.most(0)


class Mix:
    """The share of one queue's messages that run on loops, learned from receives. No lock of its own.

    A receive cannot choose. Where the slots of one kind are full and those of the other are free, a queue
    that has both is asked for one message at a time, until one waits for the full ones: so this worker keeps
    at most one from others that it cannot run.
    """

    def __init__(self, kind: bool | None) -> None:
        """``kind``: whether all its messages run on loops; None where it has both, or that is not known."""
        self._kind = kind
        self._share = 0.5

    def note(self, on_loop: Iterable[bool]) -> None:
        """Learn from one receive: whether each of its messages runs on a loop."""
        for each in on_loop:
            self._share += WEIGHT * (each - self._share)

    def heads_for(self, pool_room: int, loop_room: int, *, none_waits: bool) -> int:
        """Return how many heads to ask for where there is room for so many of each kind; may be negative.

        ``none_waits``: no message waits for slots that are full.
        """
        if self._kind is not None:
            return loop_room if self._kind else pool_room
        share = min(max(self._share, LEAST), 1 - LEAST)
        heads = int(min(pool_room / (1 - share), loop_room / share))
        return 1 if heads < 1 and none_waits and max(pool_room, loop_room) > 0 else heads
