"""Lanes: the messages held, by message group; a group's run one at a time and in order."""

from collections import deque
from collections.abc import Callable

from pipeline.transport.lease import Lease

Key = tuple[str, str]


class Lanes:
    """Which held message may be delivered next. No I/O, no clock, no lock of its own.

    A lane is a group's messages in the order SQS gave them. Its head is ready, or out: taken and not
    yet advanced past. Nothing behind a head is ever ready. Ready lanes take turns.
    """

    def __init__(self) -> None:
        self._lanes: dict[Key, deque[Lease]] = {}
        self._ready: deque[Key] = deque()
        self._out: set[Key] = set()

    def __len__(self) -> int:
        return len(self._lanes)

    @property
    def ready(self) -> int:
        """How many heads are ready."""
        return len(self._ready)

    def add(self, lease: Lease) -> None:
        """Put ``lease`` at the end of its lane."""
        lane = self._lanes.get(lease.lane)
        if lane is None:
            self._lanes[lease.lane] = deque((lease,))
            self._ready.append(lease.lane)
        else:
            lane.append(lease)

    def take(self, may: Callable[[Lease], bool]) -> Lease | None:
        """The next ready head that ``may`` be taken, now out; None when there is none."""
        for position, key in enumerate(self._ready):
            head = self._lanes[key][0]
            if may(head):
                del self._ready[position]
                self._out.add(key)
                return head
        return None

    def put_back(self, lease: Lease) -> None:
        """A head that was taken and did not run is ready again, before all others."""
        if self._is_out(lease):
            self._out.discard(lease.lane)
            self._ready.appendleft(lease.lane)

    def advance(self, lease: Lease) -> None:
        """The head that was out is through; the one behind it is ready. Any other lease: nothing."""
        if not self._is_out(lease):
            return
        self._out.discard(lease.lane)
        lane = self._lanes[lease.lane]
        lane.popleft()
        if lane:
            self._ready.append(lease.lane)
        else:
            del self._lanes[lease.lane]

    def is_ready(self, key: Key) -> bool:
        """Whether the head of a lane waits to be taken."""
        return key in self._lanes and key not in self._out

    def is_followed(self, key: Key) -> bool:
        """Whether one waits behind the head of a lane."""
        return len(self._lanes.get(key, ())) > 1

    def cut(self, key: Key) -> list[Lease]:
        """Take away all of a lane that is not out, and return it in order.

        A head that is out stays: until it is advanced past, nothing of its group may start.
        """
        lane = self._lanes.get(key)
        if lane is None:
            return []
        kept = 1 if key in self._out else 0
        removed = list(lane)[kept:]
        if kept:
            self._lanes[key] = deque((lane[0],))
        else:
            del self._lanes[key]
            self._ready.remove(key)
        return removed

    def _is_out(self, lease: Lease) -> bool:
        return lease.lane in self._out and self._lanes[lease.lane][0] is lease
