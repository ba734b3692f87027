"""The intake: every message this process holds, from the receive to the delete.

It lives as long as the process, not as long as a connection: what is held survives a reconnect.
"""

import itertools
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import structlog

from pipeline.clock import boottime
from pipeline.transport.lanes import Key, Lanes
from pipeline.transport.lease import Lease, Phase
from pipeline.transport.pace import Pace

log = structlog.get_logger(__name__)

#: How far ahead messages are received: what the worker gets through in this many seconds. Measured:
#: a receive takes 10 to 30 ms at 10 ms round trip, so a pool of tiny tasks stays full, while a worker
#: on hour-long tasks holds nothing that waits.
RECEIVE_AHEAD = 0.25
#: Polls of several queues may bring more than that together. What would wait longer than this (seconds)
#: is left to other workers.
WAIT_AT_MOST = 5.0
#: The most messages of one receive.
RECEIVE_MOST = 10
#: The most messages held that are waiting or running, whatever the pace.
HELD_LIMIT = 1_000
#: The most messages held whose run is over: past it, Kafka or DynamoDB are slow and receiving pauses.
UNSETTLED_LIMIT = 2_000


class Intake:
    """What is held, what may start next, and how much more to ask for. Safe for threads."""

    def __init__(
        self, *, on_ready: Callable[[], None], on_unwanted: Callable[[Sequence[Lease]], None]
    ) -> None:
        #: called, from any thread, when a message may have become ready to deliver
        self._on_ready = on_ready
        #: given what this process lets go of by itself; it is to go back to the queue
        self._on_unwanted = on_unwanted
        #: how many the worker runs at once; set from its prefetch count
        self.slots = 1
        #: nothing would be delivered, so nothing is asked for; set by the heartbeat
        self.paused = False
        self._lock = threading.RLock()
        #: by queue: told when there is room for more of its messages
        self._room_for: dict[str, threading.Condition] = {}
        #: how many receivers wait for that, by queue
        self._waiting: Counter[str] = Counter()
        self._lanes = Lanes()
        #: by message id
        self._held: dict[str, Lease] = {}
        #: by the tag of their delivery
        self._delivered: dict[str, Lease] = {}
        self._phases: Counter[Phase] = Counter()
        #: what receives under way may bring, by queue
        self._asked: Counter[str] = Counter()
        self._numbers = itertools.count()
        self._pace = Pace()
        self._saturated = False

    # ─── Receiving ───

    def ask(self, queue: str, stopped: threading.Event) -> int:
        """Wait until there is room; how many to receive now, 0 when stopped.

        What is asked for counts as held until ``asked`` is called with the same number.
        """
        with self._lock:
            room_for = self._room_for.setdefault(queue, threading.Condition(self._lock))
            while not stopped.is_set():
                if self._has_room(queue):
                    room = min(RECEIVE_MOST, self._room(queue))
                    self._asked[queue] += room
                    self._tell()
                    return room
                self._waiting[queue] += 1
                room_for.wait(timeout=1)
                self._waiting[queue] -= 1
        return 0

    def asked(self, queue: str, count: int) -> None:
        """A receive that ``ask`` allowed is over."""
        with self._lock:
            self._asked[queue] -= count
            self._tell()

    def hold(self, leases: Sequence[Lease]) -> None:
        """Take charge of messages just received, in the order received.

        A message that is held already was handed out again because its lease ran out: the new receipt
        handle is adopted, and it is not started a second time.
        """
        with self._lock:
            added = [lease for lease in leases if not self._adopt(lease)]
            for lease in added:
                self._held[lease.message_id] = lease
                self._phases[lease.phase] += 1
                self._lanes.add(lease)
            surplus = self._cut_surplus(added)
            self._tell()
            ready = self._can_take()
        self._let_go(surplus)
        self._wake(ready)

    def _adopt(self, lease: Lease) -> bool:
        held = self._held.get(lease.message_id)
        if held is None:
            return False
        if not lease.startable():
            # It was looked up for longer than its lease, and came again meanwhile: the handle held is newer.
            return True
        if held.phase is Phase.RETURNING:
            # Given back, and here again before the answer to that was.
            self._drop(held)
            return False
        held.message, held.deadline = lease.message, lease.deadline
        return True

    def _room(self, queue: str) -> int:
        """How many to ask ``queue`` for.

        Only heads count: what waits behind a head cannot start, so a deep group must not keep others out.
        What other queues were asked for does not count: the poll of an empty queue lasts long.
        """
        unsettled = self._phases[Phase.FINISHED] + self._phases[Phase.DELETING]
        if (unsettled >= UNSETTLED_LIMIT) != self._saturated:
            self._saturated = not self._saturated
            log.warning(
                "worker.receiving_paused" if self._saturated else "worker.receiving_resumed",
                unsettled=unsettled,
            )
        if self._saturated or self.paused:
            return 0
        held = self._phases[Phase.WAITING] + len(self._delivered)
        return min(
            self._wanted() - self._lanes.ready - len(self._delivered) - self._asked[queue],
            HELD_LIMIT - held - self._asked.total(),
        )

    def _has_room(self, queue: str) -> bool:
        """Whether to ask now: for a full call, a part of what is wanted, or an idle slot."""
        room = self._room(queue)
        idle = self.slots - len(self._delivered) - self._lanes.ready - self._asked[queue]
        return room >= max(1, min(RECEIVE_MOST, self._wanted() // 4)) or min(room, idle) > 0

    def _wanted(self) -> int:
        return max(self.slots, int(self._pace.rate() * RECEIVE_AHEAD))

    def _tell(self) -> None:
        """Wake one receiver of each queue there is room for."""
        for queue, room_for in self._room_for.items():
            if self._waiting[queue] and self._has_room(queue):
                room_for.notify()

    def _cut_surplus(self, added: Sequence[Lease]) -> list[Lease]:
        startable_soon = max(self.slots, int(self._pace.rate() * WAIT_AT_MOST))
        surplus = []
        for key in dict.fromkeys(lease.lane for lease in reversed(added)):
            if self._lanes.ready + len(self._delivered) <= startable_soon:
                break
            if self._lanes.is_ready(key):
                surplus += self._cut(key)
        return surplus

    # ─── Delivering ───

    def take(self) -> Lease | None:
        """The next message to run, while a slot is free; None otherwise."""
        lapsed: list[Lease] = []
        with self._lock:
            lease = self._take(lapsed)
        self._let_go(lapsed)
        return lease

    def _take(self, lapsed: list[Lease]) -> Lease | None:
        while len(self._delivered) < self.slots:
            lease = self._lanes.take(self._may_start)
            if lease is None:
                return None
            if lease.startable():
                lease.tag = f"{lease.message_id}:{next(self._numbers)}"
                self._move(lease, Phase.DELIVERED)
                return lease
            # Whoever has it now may be running it, so those behind it may not start here.
            self._lanes.put_back(lease)
            lapsed += self._cut(lease.lane)
            log.warning("lease.lapsed_before_start", queue=lease.queue, group=lease.message.group_id)
        return None

    def _can_take(self) -> bool:
        return self._lanes.ready > 0 and len(self._delivered) < self.slots

    def _wake(self, ready: bool) -> None:
        """Not for nothing: it is one thread's wake-up of another, several for each task."""
        if ready:
            self._on_ready()

    def _may_start(self, lease: Lease) -> bool:
        """Suspects run one at a time, so that only the one that kills a worker is found to have done so."""
        return not (lease.suspect and any(other.suspect for other in self._delivered.values()))

    def delivered(self, tag: str) -> Lease | None:
        """The message delivered as ``tag``; None when that delivery is over."""
        return self._delivered.get(tag)

    def started(self, lease: Lease, run_until: float) -> None:
        """Its run begins, and can last until ``run_until`` (seconds, ``boottime``)."""
        lease.run_until = run_until

    def finish(self, tag: str) -> Lease | None:
        """The delivery is over: its slot is free. None when it was over before.

        The message is held until ``forget``.
        """
        with self._lock:
            lease = self._delivered.get(tag)
            if lease is not None:
                self._move(lease, Phase.FINISHED)
                self._pace.note()
                self._tell()
            ready = self._can_take()
        self._wake(ready)
        return lease

    def is_followed(self, lease: Lease) -> bool:
        """Whether another of its group waits for it to be advanced past."""
        with self._lock:
            return self._lanes.is_followed(lease.lane)

    def advance(self, lease: Lease) -> None:
        """Its effects are safe: the next of its group may start."""
        with self._lock:
            self._lanes.advance(lease)
            ready = self._can_take()
        self._wake(ready)

    def restore(self, queue: str | None = None) -> None:
        """What was delivered (from ``queue``, or any) but never started waits again: its consumer is gone."""
        with self._lock:
            for lease in list(self._delivered.values()):
                if lease.run_until is None and queue in (None, lease.queue):
                    self._move(lease, Phase.WAITING)
                    self._lanes.put_back(lease)

    # ─── Letting go ───

    def leave(self, lease: Lease, phase: Phase) -> list[Lease]:
        """It is to be deleted or to come again, whichever is said first; all that now goes, itself last.

        Those waiting behind one that comes again go back as well: SQS keeps them behind it until it is
        through, and another worker may take them with it.
        """
        with self._lock:
            if not self.is_held(lease) or lease.phase in (Phase.DELETING, Phase.RETURNING):
                return []
            left = [] if phase is Phase.DELETING else self._cut(lease.lane)
            if lease not in left:
                self._move(lease, phase)
                left.append(lease)
            self._tell()
        return left

    def cut(self, key: Key) -> list[Lease]:
        """All of a lane that waits; the caller gives it back."""
        with self._lock:
            left = self._cut(key)
            self._tell()
        return left

    def cut_all(self, queue: str | None = None) -> list[Lease]:
        """All that waits (of ``queue``, or of every queue); the caller gives it back."""
        with self._lock:
            keys = {lease.lane for lease in self._held.values() if queue in (None, lease.queue)}
            return [lease for key in keys for lease in self._cut(key)]

    def forget(self, lease: Lease) -> None:
        """It is deleted or given back: no longer ours."""
        with self._lock:
            if self.is_held(lease):
                self._drop(lease)
                self._tell()
            ready = self._can_take()
        self._wake(ready)

    def _cut(self, key: Key) -> list[Lease]:
        waiting = self._lanes.cut(key)
        for lease in waiting:
            self._move(lease, Phase.RETURNING)
        return waiting

    def _drop(self, lease: Lease) -> None:
        self._move(lease, None)
        del self._held[lease.message_id]
        self._lanes.advance(lease)

    def _move(self, lease: Lease, phase: Phase | None) -> None:
        """The one place where a phase changes: what is counted cannot drift from what is held."""
        self._phases[lease.phase] -= 1
        if lease.phase is Phase.DELIVERED:
            del self._delivered[lease.tag]
        if phase is None:
            return
        lease.phase = phase
        self._phases[phase] += 1
        if phase is Phase.DELIVERED:
            self._delivered[lease.tag] = lease

    def _let_go(self, leases: Sequence[Lease]) -> None:
        if leases:
            self._on_unwanted(leases)

    # ─── Looking ───

    def due(self, before: float) -> list[Lease]:
        """The messages to extend whose lease ends before ``before`` (seconds, ``boottime``)."""
        with self._lock:
            return [
                lease
                for lease in self._held.values()
                if lease.deadline < before and lease.phase is not Phase.RETURNING
            ]

    def overdue(self) -> list[Lease]:
        """The messages whose run was to be over by now, and nobody said that it is."""
        now = boottime()
        with self._lock:
            return [x for x in self._delivered.values() if x.run_until is not None and now > x.run_until]

    def is_held(self, lease: Lease) -> bool:
        """Whether it is still ours."""
        return self._held.get(lease.message_id) is lease

    def counts(self) -> dict[str, int]:
        """How many are held in each phase, and in how many lanes."""
        with self._lock:
            return {phase.value: self._phases[phase] for phase in Phase} | {"lanes": len(self._lanes)}


def by_queue(leases: Iterable[Lease]) -> dict[str, list[Lease]]:
    """``leases`` by the name of their queue, in order."""
    groups: dict[str, list[Lease]] = {}
    for lease in leases:
        groups.setdefault(lease.queue, []).append(lease)
    return groups
