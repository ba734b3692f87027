"""The intake: every message this process holds, from the receive to the delete.

It lives as long as the process, not as long as a connection: what is held survives a reconnect.
"""

import threading
import time
from collections.abc import Callable, Iterable, Sequence

import structlog

from pipeline.clock import boottime
from pipeline.transport.lanes import Key, Lanes
from pipeline.transport.lease import Lease, Phase

log = structlog.get_logger(__name__)

#: How far ahead messages are received: what the worker gets through in this many seconds. Measured:
#: a receive takes 10 to 30 ms at 10 ms round trip, so a pool of tiny tasks stays full, while a worker
#: on hour-long tasks holds nothing that waits.
RECEIVE_AHEAD = 0.25
#: The most messages held that are waiting or running, whatever the pace.
HELD_LIMIT = 1_000
#: The most messages held whose run is over: past it, Kafka or DynamoDB are slow and receiving pauses.
UNSETTLED_LIMIT = 2_000

Screen = Callable[[Sequence[Lease]], Sequence[Lease]]


class Pace:
    """Runs finished per second, over about the last second."""

    WINDOW = 0.5

    def __init__(self) -> None:
        self._since = time.monotonic()
        self._count = 0
        self._rate = 0.0

    def note(self) -> None:
        """One more run is over."""
        self._count += 1

    def rate(self) -> float:
        """Runs per second."""
        elapsed = time.monotonic() - self._since
        if elapsed >= self.WINDOW:
            self._rate = (self._rate + self._count / elapsed) / 2
            self._since, self._count = time.monotonic(), 0
        return self._rate


class Intake:
    """What is held, what may start next, and how much more to ask for. Safe for threads."""

    def __init__(self, *, on_ready: Callable[[], None]) -> None:
        #: called, from any thread, when a message may have become ready to deliver
        self._on_ready = on_ready
        #: how many the worker runs at once; set from its prefetch count
        self.slots = 1
        #: decides, on the receiver's thread, which of the received are to be run; set by the worker
        self.screen: Screen = lambda leases: leases
        self._changed = threading.Condition()
        self._lanes = Lanes()
        self._held: dict[str, Lease] = {}
        self._asked = 0
        self._delivered = 0
        self._finished = 0
        self._pace = Pace()
        self._saturated = False

    # ─── Receiving ───

    def ask(self, most: int, stopped: threading.Event) -> int:
        """Wait until there is room; how many to receive now (at most ``most``), 0 when stopped.

        What is asked for counts as held until ``asked`` is called with the same number.
        """
        with self._changed:
            while not stopped.is_set():
                room = min(most, self._room())
                if room > 0:
                    self._asked += room
                    return room
                self._changed.wait(timeout=1)
        return 0

    def asked(self, count: int) -> None:
        """A receive that ``ask`` allowed is over."""
        with self._changed:
            self._asked -= count
            self._changed.notify_all()

    def hold(self, leases: Sequence[Lease]) -> None:
        """Take charge of messages just received, in the order received.

        A message that is held already was handed out again because its lease ran out: the new receipt
        handle is adopted, and it is not started a second time.
        """
        with self._changed:
            for lease in leases:
                held = self._held.get(lease.tag)
                if held is not None:
                    held.message, held.deadline = lease.message, lease.deadline
                    continue
                self._held[lease.tag] = lease
                self._lanes.add(lease)
            self._changed.notify_all()
        self._on_ready()

    def _room(self) -> int:
        capacity = min(HELD_LIMIT, max(self.slots, int(self._pace.rate() * RECEIVE_AHEAD)))
        unsettled = self._finished >= UNSETTLED_LIMIT
        if unsettled != self._saturated:
            self._saturated = unsettled
            log.warning(
                "worker.receiving_paused" if unsettled else "worker.receiving_resumed",
                unsettled=self._finished,
            )
        return 0 if unsettled else capacity - (len(self._held) - self._finished) - self._asked

    # ─── Delivering ───

    def take(self) -> Lease | None:
        """The next message to run, while a slot is free; None otherwise."""
        with self._changed:
            while self._delivered < self.slots:
                lease = self._lanes.take()
                if lease is None:
                    return None
                if lease.startable():
                    lease.phase = Phase.DELIVERED
                    self._delivered += 1
                    return lease
                self._let_lapse(lease)
        return None

    def started(self, lease: Lease, time_limit: float) -> None:
        """Its run began and may last ``time_limit`` seconds."""
        lease.run_until = boottime() + time_limit

    def finished(self, lease: Lease) -> None:
        """Its run is over (or will never be): its slot is free. It is held until ``forget``."""
        with self._changed:
            if lease.phase is not Phase.DELIVERED:
                return
            lease.phase = Phase.FINISHED
            self._delivered -= 1
            self._finished += 1
            self._pace.note()
            self._changed.notify_all()
        self._on_ready()

    def advance(self, lease: Lease) -> None:
        """Its effects are safe: the next of its group may start."""
        with self._changed:
            self._lanes.advance(lease)
        self._on_ready()

    def restore(self) -> None:
        """What was delivered but never started is ready again: its connection is gone."""
        with self._changed:
            for lease in self._held.values():
                if lease.phase is Phase.DELIVERED and lease.run_until is None:
                    lease.phase = Phase.WAITING
                    self._delivered -= 1
                    self._lanes.put_back(lease)

    # ─── Letting go ───

    def forget(self, lease: Lease) -> None:
        """It is deleted or given back: no longer ours."""
        with self._changed:
            if self._held.get(lease.tag) is not lease:
                return
            del self._held[lease.tag]
            if lease.phase is Phase.DELIVERED:
                self._delivered -= 1
            elif lease.phase is Phase.FINISHED:
                self._finished -= 1
            self._lanes.advance(lease)
            self._changed.notify_all()
        self._on_ready()

    def cut(self, key: Key) -> list[Lease]:
        """Forget those of a lane that wait; the caller gives them back to SQS."""
        with self._changed:
            waiting = self._lanes.cut(key)
            for lease in waiting:
                self._held.pop(lease.tag, None)
            self._changed.notify_all()
        return waiting

    def cut_all(self, queue: str | None = None) -> list[Lease]:
        """Forget all that wait (of ``queue``, or of every queue); the caller gives them back."""
        with self._changed:
            keys = {x.lane for x in self._held.values() if queue in (None, x.queue)}
        return [lease for key in keys for lease in self.cut(key)]

    def _let_lapse(self, lease: Lease) -> None:
        """A head whose lease may have run out before it started: its lane comes again from SQS."""
        self._lanes.put_back(lease)
        lapsed = self._lanes.cut(lease.lane)
        for each in lapsed:
            self._held.pop(each.tag, None)
        log.warning(
            "lease.lapsed_before_start", queue=lease.queue, group=lease.message.group_id, messages=len(lapsed)
        )

    # ─── Looking ───

    def get(self, tag: str) -> Lease | None:
        """The held message that the worker calls ``tag``."""
        return self._held.get(tag)

    def due(self, before: float) -> list[Lease]:
        """The held messages whose lease ends before ``before`` (seconds, ``boottime``)."""
        with self._changed:
            return [lease for lease in self._held.values() if lease.deadline < before]

    def is_held(self, lease: Lease) -> bool:
        """Whether it is still ours to extend."""
        return self._held.get(lease.tag) is lease

    def counts(self) -> dict[str, int]:
        """How many are waiting, delivered and finished, and in how many lanes."""
        with self._changed:
            waiting = len(self._held) - self._delivered - self._finished
            return {
                "waiting": waiting,
                "delivered": self._delivered,
                "finished": self._finished,
                "lanes": len(self._lanes),
            }

    def wait_empty(self, timeout: float) -> bool:
        """Wait until nothing is held; False when ``timeout`` seconds passed first."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._held, timeout)


def by_queue(leases: Iterable[Lease]) -> dict[str, list[Lease]]:
    """``leases`` by the name of their queue, in order."""
    groups: dict[str, list[Lease]] = {}
    for lease in leases:
        groups.setdefault(lease.queue, []).append(lease)
    return groups
