"""The intake: every message that this process holds, from the receive to the delete.

It lives as long as the process, not as long as a connection: messages held survive a reconnect.
"""

import itertools
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import structlog

from pipeline.clock import boottime
from pipeline.transport.followers import RECEIVE_MOST, Followers
from pipeline.transport.lanes import Key, Lanes
from pipeline.transport.lease import Lease, Phase
from pipeline.transport.slots import LoopSlots, Mix, Slots

log = structlog.get_logger(__name__)

#: The most messages held that are waiting or running, however fast they finish.
HELD_LIMIT = 1_000
#: The most messages held whose run is over: beyond it Kafka or DynamoDB is slow, and receiving pauses.
UNSETTLED_LIMIT = 2_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Allowed:
    """A receive that the intake has room for."""

    queue: str
    #: how many messages to ask for
    messages: int
    #: how many of them are expected to be heads of their lanes: only these use slots
    heads: int


class Intake:
    """Knows which messages are held, which may start next, and how many to ask for. Safe for threads."""

    def __init__(
        self, *, on_ready: Callable[[], None], on_unwanted: Callable[[Sequence[Lease]], None]
    ) -> None:
        #: called, from any thread, when a message may have become ready to deliver
        self._on_ready = on_ready
        #: called with the leases that this process gives up by itself; they must go back to the queue
        self._on_unwanted = on_unwanted
        #: those of the pool, whose number is set from the worker's prefetch count, and those of its loops
        self._slots = {False: Slots(1), True: LoopSlots(0)}
        #: by queue with messages of one kind only: whether they run on loops
        self._kinds: Mapping[str, bool] = {}
        #: nothing is asked for, because nothing would be delivered; set by the heartbeat
        self.paused = False
        self._lock = threading.RLock()
        #: by queue: notified when there is room for more of its messages
        self._room_for: dict[str, threading.Condition] = {}
        #: how many receivers wait for room, by queue
        self._waiting: Counter[str] = Counter()
        self._lanes = Lanes()
        #: by message id
        self._held: dict[str, Lease] = {}
        #: by the tag of their delivery
        self._delivered: dict[str, Lease] = {}
        self._phases: Counter[Phase] = Counter()
        #: how many heads the receives under way are expected to bring, by queue
        self._asked: Counter[str] = Counter()
        #: what is learned from receives, by queue
        self._followers: defaultdict[str, Followers] = defaultdict(Followers)
        self._numbers = itertools.count()
        self._mixes: dict[str, Mix] = {}
        self._saturated = False

    @property
    def slots(self) -> int:
        """How many the worker runs at once in its pool."""
        return self._slots[False].count

    @slots.setter
    def slots(self, count: int) -> None:
        self._slots[False].count = count

    def use_loops(self, slots: int, kinds: Mapping[str, bool]) -> None:
        """Deliver up to ``slots`` messages for loops as well.

        ``kinds``: whether they run on loops, by queue with messages of one kind only.
        """
        self._slots[True].count, self._kinds = slots, kinds

    # ─── Receiving ───

    def ask(self, queue: str, stopped: threading.Event) -> Allowed | None:
        """Wait until there is room; return the receive to make now, None when stopped.

        Its heads count as held until ``asked`` is called with it.
        """
        with self._lock:
            room_for = self._room_for.setdefault(queue, threading.Condition(self._lock))
            while not stopped.is_set():
                if self._has_room(queue):
                    return self._allow(queue)
                self._waiting[queue] += 1
                room_for.wait(timeout=1)
                self._waiting[queue] -= 1
        return None

    def _allow(self, queue: str) -> Allowed:
        heads = min(RECEIVE_MOST, self._room(queue))
        self._asked[queue] += heads
        self._tell()
        return Allowed(queue=queue, messages=self._followers[queue].messages_for(heads), heads=heads)

    def asked(self, allowed: Allowed) -> None:
        """Note that a receive allowed by ``ask`` has ended."""
        with self._lock:
            self._asked[allowed.queue] -= allowed.heads
            self._tell()

    def hold(self, leases: Sequence[Lease]) -> None:
        """Hold messages just received, in the order received.

        A message that is held already came again because its lease ran out: its new receipt handle is
        adopted, and it is not started a second time.
        """
        with self._lock:
            for queue, received in by_queue(leases).items():
                self._followers[queue].note([lease.lane for lease in received])
                self._mix(queue).note(lease.on_loop for lease in received)
            # One whose lease ended while it was looked up comes again, with those behind it, in order.
            added = [lease for lease in leases if not self._adopt(lease) and lease.startable()]
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
        """Return how many messages to ask ``queue`` for.

        Only heads count: messages behind a head cannot start, so a deep group must not keep others out. Polls
        of other queues do not count: the poll of an empty queue lasts long.
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
        wanted = self._heads_for(queue, {kind: slots.wanted() for kind, slots in self._slots.items()})
        return min(wanted - self._asked[queue], HELD_LIMIT - held - self._asked.total())

    def _heads_for(self, queue: str, wanted: Mapping[bool, int]) -> int:
        """Return how many heads of a queue would fill up the slots to as many as are wanted of each kind."""
        rooms = {
            kind: wanted[kind] - self._lanes.ready(kind) - slots.taken for kind, slots in self._slots.items()
        }
        if not self._slots[True].count:
            return rooms[False]
        none_waits = not any(rooms[kind] <= 0 and self._lanes.ready(kind) for kind in rooms)
        return self._mix(queue).heads_for(rooms[False], rooms[True], none_waits=none_waits)

    def _mix(self, queue: str) -> Mix:
        mix = self._mixes.get(queue)
        if mix is None:
            mix = self._mixes[queue] = Mix(self._kinds.get(queue))
        return mix

    def _has_room(self, queue: str) -> bool:
        """Whether to ask now: for a full call, for a quarter of what is wanted, or for an idle slot."""
        room = self._room(queue)
        idle = self._heads_for(queue, {kind: slots.count for kind, slots in self._slots.items()})
        idle -= self._asked[queue]
        return room >= max(1, min(RECEIVE_MOST, self._wanted() // 4)) or min(room, idle) > 0

    def _wanted(self) -> int:
        return sum(slots.wanted() for slots in self._slots.values())

    def _tell(self) -> None:
        """Wake one receiver of each queue that there is room for."""
        for queue, room_for in self._room_for.items():
            if self._waiting[queue] and self._has_room(queue):
                room_for.notify()

    def _cut_surplus(self, added: Sequence[Lease]) -> list[Lease]:
        # One more may wait where the queue had to be asked for the other kind.
        spare = 1 if self._slots[True].count else 0
        surplus = []
        for key in dict.fromkeys(lease.lane for lease in reversed(added)):
            kind = self._lanes.kind_of_ready(key)
            if kind is not None:
                slots = self._slots[kind]
                if self._lanes.ready(kind) + slots.taken > slots.most() + spare:
                    surplus += self._cut(key)
        return surplus

    # ─── Delivering ───

    def take(self) -> Lease | None:
        """Return the next message to run, if a slot is free; else None."""
        lapsed: list[Lease] = []
        with self._lock:
            lease = self._take(lapsed)
        self._let_go(lapsed)
        return lease

    def _take(self, lapsed: list[Lease]) -> Lease | None:
        while (lease := self._next_head()) is not None:
            if lease.startable() and self._holds_passed(lease.lane):
                lease.tag = f"{lease.message_id}:{next(self._numbers)}"
                self._move(lease, Phase.DELIVERED)
                return lease
            # Another worker may be running it, or one before it, so those behind it may not start here.
            self._lanes.put_back(lease)
            lapsed += self._cut(lease.lane)
            log.warning("lease.lapsed_before_start", queue=lease.queue, group=lease.message.group_id)
        return None

    def _next_head(self) -> Lease | None:
        """Take a head that a slot is free for."""
        for kind, slots in self._slots.items():
            if slots.is_free and (lease := self._lanes.take(kind, self._may_start)) is not None:
                return lease
        return None

    def _holds_passed(self, key: Key) -> bool:
        """Whether this process still owns all that ran in a lane, or has settled it."""
        return all(
            lease.phase is Phase.DELETING or (lease.phase is Phase.FINISHED and lease.startable())
            for lease in self._lanes.passed(key)
        )

    def _can_take(self) -> bool:
        return any(slots.is_free and self._lanes.ready(kind) > 0 for kind, slots in self._slots.items())

    def _wake(self, ready: bool) -> None:
        """Call ``on_ready``, but only if needed: it wakes another thread, several times for each task."""
        if ready:
            self._on_ready()

    def _may_start(self, lease: Lease) -> bool:
        """Whether a message may start. Suspects run one at a time, so that the one that kills is found."""
        return not (lease.suspect and any(other.suspect for other in self._delivered.values()))

    def delivered(self, tag: str) -> Lease | None:
        """Return the message delivered as ``tag``; None if that delivery is over."""
        return self._delivered.get(tag)

    def started(self, lease: Lease, run_until: float) -> None:
        """Note that its run begins, and can last until ``run_until`` (seconds, ``boottime``)."""
        lease.run_until = run_until

    def finish(self, tag: str) -> Lease | None:
        """End a delivery and free its slot; return its lease, or None if it was over before.

        The message is held until ``forget``.
        """
        with self._lock:
            lease = self._delivered.get(tag)
            if lease is not None:
                self._move(lease, Phase.FINISHED)
                self._tell()
            ready = self._can_take()
        self._wake(ready)
        return lease

    def is_followed(self, lease: Lease) -> bool:
        """Whether another message of its group waits behind it."""
        with self._lock:
            return self._lanes.is_followed(lease.lane)

    def let_pass(self, lease: Lease) -> None:
        """Let the next message of its group start, because its own run went well.

        The message stays in its lane until ``advance``: if it goes back, so do those behind it.
        """
        with self._lock:
            self._lanes.let_pass(lease)
            ready = self._can_take()
        self._wake(ready)

    def advance(self, lease: Lease) -> None:
        """Let the next message of its group start if none did, because its own effects are safe."""
        with self._lock:
            self._lanes.advance(lease)
            ready = self._can_take()
        self._wake(ready)

    def restore(self, queue: str | None = None) -> None:
        """Let messages wait again that were delivered (from ``queue``, or any) but not started."""
        with self._lock:
            for lease in list(self._delivered.values()):
                if lease.run_until is None and queue in (None, lease.queue):
                    self._move(lease, Phase.WAITING)
                    self._lanes.put_back(lease)

    # ─── Letting go ───

    def delete(self, leases: Sequence[Lease]) -> list[Lease]:
        """Mark settled messages to be deleted, and let the next of their groups start.

        Return them without those that were marked to be deleted or given back before.
        """
        with self._lock:
            for lease in leases:
                self._lanes.advance(lease)
            left = [lease for lease in leases if self._stays(lease)]
            for lease in left:
                self._move(lease, Phase.DELETING)
            self._tell()
            ready = self._can_take()
        self._wake(ready)
        return left

    def give_back(self, lease: Lease) -> list[Lease]:
        """Mark a message to be given back, unless it was marked before. Return all that go, itself last.

        Those behind it go back as well: SQS keeps them behind it until it is deleted, and another worker may
        take them with it. One of them that is running goes back when its run is over.
        """
        with self._lock:
            if not self._stays(lease):
                return []
            left = self._cut_behind(lease)
            if lease not in left:
                self._move(lease, Phase.RETURNING)
                left.append(lease)
            self._tell()
        return left

    def _stays(self, lease: Lease) -> bool:
        """Whether a message is held and not marked to be deleted or given back."""
        return self.is_held(lease) and lease.phase not in (Phase.DELETING, Phase.RETURNING)

    def cut(self, key: Key) -> list[Lease]:
        """Remove all waiting messages of a lane and return them; the caller gives them back."""
        with self._lock:
            left = self._cut(key)
            self._tell()
        return left

    def cut_all(self, queue: str | None = None) -> list[Lease]:
        """Remove all waiting messages (of ``queue``, or of every queue) and return them, as ``cut`` does."""
        with self._lock:
            keys = {lease.lane for lease in self._held.values() if queue in (None, lease.queue)}
            return [lease for key in keys for lease in self._cut(key)]

    def forget(self, leases: Iterable[Lease]) -> None:
        """Stop holding messages that were deleted or given back."""
        with self._lock:
            for lease in leases:
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

    def _cut_behind(self, lease: Lease) -> list[Lease]:
        """Cut a lane of which a message goes back: all that waits, and what ran behind that message."""
        passed, running = self._lanes.passed(lease.lane), self._lanes.out(lease.lane)
        if lease not in passed:
            return self._cut(lease.lane)
        ran = [x for x in passed[passed.index(lease) + 1 :] if x.phase is Phase.FINISHED]
        for each in ran:
            self._move(each, Phase.RETURNING)
        if running is not None:
            running.void = True
        return ran + self._cut(lease.lane)

    def _drop(self, lease: Lease) -> None:
        self._move(lease, None)
        del self._held[lease.message_id]
        self._lanes.advance(lease)

    def _move(self, lease: Lease, phase: Phase | None) -> None:
        """Change a phase. Only this method does, so that counts cannot drift from what is held."""
        self._phases[lease.phase] -= 1
        if lease.phase is Phase.DELIVERED:
            del self._delivered[lease.tag]
            self._slots[lease.on_loop].free_one(has_run=phase is Phase.FINISHED)
        if phase is None:
            return
        lease.phase = phase
        self._phases[phase] += 1
        if phase is Phase.DELIVERED:
            self._delivered[lease.tag] = lease
            self._slots[lease.on_loop].taken += 1

    def _let_go(self, leases: Sequence[Lease]) -> None:
        if leases:
            self._on_unwanted(leases)

    # ─── Looking ───

    def due(self, before: float) -> list[Lease]:
        """Return the messages to extend whose lease ends before ``before`` (seconds, ``boottime``)."""
        with self._lock:
            return [
                lease
                for lease in self._held.values()
                if lease.deadline < before and lease.phase is not Phase.RETURNING
            ]

    def overdue(self) -> list[Lease]:
        """Return the messages whose run should have ended by now, without a report that it did."""
        now = boottime()
        with self._lock:
            return [x for x in self._delivered.values() if x.run_until is not None and now > x.run_until]

    def is_held(self, lease: Lease) -> bool:
        """Whether this process still holds it."""
        return self._held.get(lease.message_id) is lease

    def counts(self) -> dict[str, int]:
        """Return how many messages are held in each phase, and in how many lanes."""
        with self._lock:
            return {phase.value: self._phases[phase] for phase in Phase} | {"lanes": len(self._lanes)}


def by_queue(leases: Iterable[Lease]) -> dict[str, list[Lease]]:
    """Group leases by the name of their queue, in order."""
    groups: dict[str, list[Lease]] = {}
    for lease in leases:
        groups.setdefault(lease.queue, []).append(lease)
    return groups
