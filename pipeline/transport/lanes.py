"""Lanes: the messages held, by message group; a group's run one at a time and in order."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pipeline.transport.lease import Lease

Key = tuple[str, str]


@dataclass(slots=True)
class _Lane:
    """The messages of one group."""

    #: those whose run went well and whose effects are not recorded yet, in the order they ran
    passed: list[Lease] = field(default_factory=list)
    #: the head, ready or out, and those behind it
    waiting: deque[Lease] = field(default_factory=deque)


class Lanes:
    """Decides which held message may be delivered next. No I/O, no clock, no lock of its own.

    A lane is a group's messages in the order SQS gave them. Its head is ready, or out: taken and not
    yet passed or advanced past. Nothing behind a head is ever ready. Ready lanes take turns.
    """

    def __init__(self) -> None:
        self._lanes: dict[Key, _Lane] = {}
        #: by whether their heads run on a loop
        self._ready: dict[bool, deque[Key]] = {False: deque(), True: deque()}
        self._out: set[Key] = set()

    def __len__(self) -> int:
        return len(self._lanes)

    def ready(self, on_loop: bool) -> int:
        """Return how many heads are ready to run, on a loop or in the pool."""
        return len(self._ready[on_loop])

    def add(self, lease: Lease) -> None:
        """Put ``lease`` at the end of its lane."""
        lane = self._lanes.setdefault(lease.lane, _Lane())
        lane.waiting.append(lease)
        if len(lane.waiting) == 1:
            self._ready[lease.on_loop].append(lease.lane)

    def take(self, on_loop: bool, may: Callable[[Lease], bool]) -> Lease | None:
        """Take the next ready head of a kind that ``may`` be taken, and return it; None if there is none."""
        ready = self._ready[on_loop]
        for position, key in enumerate(ready):
            head = self._lanes[key].waiting[0]
            if may(head):
                del ready[position]
                self._out.add(key)
                return head
        return None

    def put_back(self, lease: Lease) -> None:
        """Make a head that was taken but not run ready again, before all others."""
        if self._is_out(lease):
            self._out.discard(lease.lane)
            self._ready[lease.on_loop].appendleft(lease.lane)

    def let_pass(self, lease: Lease) -> None:
        """Make the next one ready behind a head that was out and ran well; it stays in its lane.

        Any other lease is ignored.
        """
        if self._is_out(lease):
            lane = self._lanes[lease.lane]
            lane.passed.append(lane.waiting.popleft())
            self._head_gone(lease.lane)

    def advance(self, lease: Lease) -> None:
        """Remove a lease that was passed, or a head that was out, and then make the next one ready.

        Any other lease is ignored.
        """
        lane = self._lanes.get(lease.lane)
        if lane is None:
            return
        if lease in lane.passed:
            lane.passed.remove(lease)
            self._drop_empty(lease.lane)
        elif self._is_out(lease):
            lane.waiting.popleft()
            self._head_gone(lease.lane)
            self._drop_empty(lease.lane)

    def passed(self, key: Key) -> Sequence[Lease]:
        """Return the messages of a lane that ran well and are not recorded yet, in the order they ran."""
        return self._lanes[key].passed if key in self._lanes else ()

    def out(self, key: Key) -> Lease | None:
        """Return the head of a lane if it is out."""
        return self._lanes[key].waiting[0] if key in self._out else None

    def kind_of_ready(self, key: Key) -> bool | None:
        """Whether the head of a lane, which waits to be taken, runs on a loop; None where none waits."""
        return self._lanes[key].waiting[0].on_loop if self.waits(key) and key not in self._out else None

    def waits(self, key: Key) -> bool:
        """Whether a lane has a message that is not passed: ready, out, or behind it."""
        return key in self._lanes and bool(self._lanes[key].waiting)

    def is_followed(self, key: Key) -> bool:
        """Whether a message waits behind the head of a lane."""
        return key in self._lanes and len(self._lanes[key].waiting) > 1

    def cut(self, key: Key) -> list[Lease]:
        """Remove all of a lane that has not been taken, and return it in order.

        A head that is out stays: until it is passed or advanced past, nothing of its group may start.
        """
        if key not in self._lanes:
            return []
        lane = self._lanes[key]
        kept = 1 if key in self._out else 0
        removed = list(lane.waiting)[kept:]
        if removed and not kept:
            self._ready[removed[0].on_loop].remove(key)
        lane.waiting = deque(list(lane.waiting)[:kept])
        self._drop_empty(key)
        return removed

    def _head_gone(self, key: Key) -> None:
        self._out.discard(key)
        if waiting := self._lanes[key].waiting:
            self._ready[waiting[0].on_loop].append(key)

    def _drop_empty(self, key: Key) -> None:
        if not self._lanes[key].waiting and not self._lanes[key].passed:
            del self._lanes[key]

    def _is_out(self, lease: Lease) -> bool:
        return lease.lane in self._out and self._lanes[lease.lane].waiting[0] is lease
