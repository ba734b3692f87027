"""What is to be sent to SQS, and in which order: of an ordered group one at a time, all else at once."""

import heapq
import itertools
import threading
import time
from collections import deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from consumers.offsets import Ticket
from pipeline.events import Event
from pipeline.jobs import NewJob
from pipeline.kafka import Message, Partition
from pipeline.sqs import OutgoingMessage
from pipeline.telemetry.tracing import Span, Untraced

#: Where what cannot become a task goes, beside the names of queues.
REJECTED = ""

#: Seconds that less than a batch waits for more: a request costs the same for ten tasks as for one, on SQS's
#: bill and on this processor. Measured at 1,000 events/s on a stand-in of SQS that answers in 3 ms: 307
#: requests for 2,000 instead of 1,151. Nothing waits that another of its group waits for.
LINGER = 0.005


@dataclass(frozen=True, kw_only=True)
class Rejection:
    """Why an event cannot become a task, or is given up on as one."""

    #: The exception's class, and its message.
    error: str
    message: str
    #: The stage whose task it cannot become, or in which it failed; None when it is no stage's.
    stage: str | None = None
    #: Failed runs, and the traceback of the last; of an event that ran.
    attempts: int = 0
    traceback: str = ""


@dataclass(eq=False, kw_only=True, slots=True)
class Entry:
    """One task that an event makes, or its rejection, on the way out."""

    source: Message
    #: None for a record that is no event.
    event: Event | None
    ticket: "SharedTicket"
    #: The job it belongs to, when it is known.
    job_id: str | None
    #: That job, to be opened before anything of it leaves; None when an earlier event opened it.
    job: NewJob | None
    #: The queue's name, or REJECTED.
    destination: str
    #: The task's stage and message; None for a rejection.
    stage: str | None = None
    task: OutgoingMessage | None = None
    #: Whether the tasks of its group are sent one after the other.
    ordered: bool = False
    rejection: Rejection | None = None

    @property
    def lane(self) -> tuple[str, str] | None:
        """Queue and group, when order counts."""
        return (self.destination, self.task.group_id) if self.task and self.ordered else None


class SharedTicket:
    """An event's ticket, shared by the tasks it makes: settled with the last of them."""

    def __init__(self, ticket: Ticket, size: int) -> None:
        self.ticket = ticket
        #: Bytes held in memory for it.
        self.size = size
        #: The bridge's part in the event's trace.
        self.span: Span = Untraced(None)
        self._left = 1
        self._lock = threading.Lock()

    def share(self, holders: int) -> None:
        """How many tasks there are; said before the first is put into the outbox."""
        self._left = holders

    def release(self) -> bool:
        """One of them is out; True for the last."""
        with self._lock:
            self._left -= 1
            return self._left == 0


class Outbox:
    """Entries by destination. Threads take batches and say of each entry when it is out.

    Of an ordered group one entry is given out at a time, the next only after it: SQS may fail the first of
    two in one request and accept the second.
    """

    def __init__(self, *, every_group: bool = False) -> None:
        """``every_group``: also of a group whose order does not count; two copies of a task are one group."""
        self._every_group = every_group
        self._changed = threading.Condition()
        self._ready: dict[str, deque[Entry]] = {}
        #: When the oldest of each destination became ready, long ago where somebody waits for one of them.
        self._since: dict[str, float] = {}
        #: Followers of each group that has an entry ready or out.
        self._followers: dict[tuple[str, str], deque[Entry]] = {}
        #: What is put back: when (``time.monotonic``) it is ready again, and a number that keeps the order.
        self._later: list[tuple[float, int, Entry]] = []
        self._numbers = itertools.count()
        #: What was taken and is neither out nor put back.
        self._given: set[Entry] = set()
        self._held = False
        #: Partitions of which nothing is given out yet, and what came of them.
        self._parked: set[Partition] = set()
        self._waiting: list[Entry] = []
        self._closed = False

    def put(self, entry: Entry) -> None:
        """Add an entry behind those of its group."""
        with self._changed:
            if entry.ticket.ticket.partition in self._parked:
                self._waiting.append(entry)
            else:
                self._add(entry)

    def _add(self, entry: Entry) -> None:
        lane = self._lane(entry)
        if lane is not None and lane in self._followers:
            self._followers[lane].append(entry)
            self._hurry(entry.destination)
            return
        if lane is not None:
            self._followers[lane] = deque()
        self._offer(entry)

    def take(self, limit: int) -> list[Entry]:
        """Up to ``limit`` entries of one destination, waiting for the first; empty when closed."""
        with self._changed:
            while not self._closed:
                destination, wait = (None, None) if self._held else self._next(limit)
                if destination is not None:
                    return self._take(destination, limit)
                self._changed.wait(wait)
            return []

    def _next(self, limit: int) -> tuple[str | None, float | None]:
        """The destination that is to be sent now and waits longest; or how long to wait for one."""
        now = time.monotonic()
        self._offer_due(now)
        soonest = self._later[0][0] - now if self._later else None
        # Dicts keep their order of insertion.
        for destination, waiting in self._ready.items():
            left = self._since[destination] + LINGER - now
            if left <= 0 or len(waiting) >= limit:
                return destination, None
            soonest = left if soonest is None else min(soonest, left)
        return None, soonest

    def _offer_due(self, now: float) -> None:
        while self._later and self._later[0][0] <= now:
            self._offer(heapq.heappop(self._later)[2])

    def _take(self, destination: str, limit: int) -> list[Entry]:
        waiting = self._ready.pop(destination)
        batch = [waiting.popleft() for _ in range(min(limit, len(waiting)))]
        self._given.update(batch)
        if waiting:
            # The rest waited as long.
            self._ready[destination] = waiting
            self._changed.notify()
        else:
            del self._since[destination]
        return batch

    def out(self, entries: Sequence[Entry]) -> None:
        """These are out (sent, rejected or lost): the next of their groups may go."""
        with self._changed:
            self._take_back(entries)
            for entry in entries:
                lane = self._lane(entry)
                if lane is None:
                    continue
                followers = self._followers[lane]
                if followers:
                    self._offer(followers.popleft())
                    if followers:
                        self._hurry(entry.destination)
                else:
                    del self._followers[lane]

    def later(self, entry: Entry, seconds: float) -> None:
        """Give it out again after so many seconds; the next of its group waits behind it."""
        with self._changed:
            self._take_back([entry])
            heapq.heappush(self._later, (time.monotonic() + seconds, next(self._numbers), entry))
            self._changed.notify()

    def hold(self) -> None:
        """Give out nothing until ``go_on``."""
        with self._changed:
            self._held = True

    @property
    def held(self) -> bool:
        """Whether nothing is given out now."""
        return self._held

    def wait_returned(self, partitions: Collection[Partition], timeout: float) -> bool:
        """Wait until nothing of these partitions is given out; False when time ran out first."""
        with self._changed:
            return self._changed.wait_for(
                lambda: not any(entry.ticket.ticket.partition in partitions for entry in self._given), timeout
            )

    def go_on(self) -> None:
        """Give out again."""
        with self._changed:
            self._held = False
            self._changed.notify_all()

    def park(self, partitions: Iterable[Partition]) -> None:
        """Give out nothing of what comes of these until ``unpark``; all else goes on."""
        with self._changed:
            self._parked.update(partitions)

    @property
    def parked(self) -> bool:
        """Whether there are partitions of which nothing is given out."""
        return bool(self._parked)

    def unpark(self) -> None:
        """Give out what came of them, in the order in which it came."""
        with self._changed:
            self._parked.clear()
            for entry in self._waiting:
                self._add(entry)
            self._waiting.clear()

    def close(self) -> None:
        """Give out nothing more; what is inside is read from Kafka again, by whoever comes next."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _take_back(self, entries: Sequence[Entry]) -> None:
        self._given.difference_update(entries)
        if self._held:
            self._changed.notify_all()

    def _lane(self, entry: Entry) -> tuple[str, str] | None:
        """Queue and group, when one of it is out at a time."""
        if self._every_group and entry.task:
            return entry.destination, entry.task.group_id
        return entry.lane

    def _offer(self, entry: Entry) -> None:
        self._ready.setdefault(entry.destination, deque()).append(entry)
        self._since.setdefault(entry.destination, time.monotonic())
        self._changed.notify()

    def _hurry(self, destination: str) -> None:
        if destination in self._since:
            self._since[destination] = 0.0
            self._changed.notify()
