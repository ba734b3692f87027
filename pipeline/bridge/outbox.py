"""The order in which entries leave the bridge: of an ordered group one at a time, all others at once.

An entry whose event begins a job is first given to the threads that open jobs, then to those that send tasks:
those never wait for the table.
"""

import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipeline.bridge.offsets import Ticket
from pipeline.bridge.translator import EventTasks, Rejection
from pipeline.telemetry import tracing
from pipeline.telemetry.spans import Span, Untraced
from pipeline.transport.batches import Batches
from pipeline.wire.taskmessage import TaskMessage

#: The destination of rejections, beside the names of queues.
REJECTED = ""
#: The destination of events whose job's plan is only in its record.
UNPLANNED = "?"

#: Seconds that less than a batch waits for more: a request costs the same for ten tasks as for one, on SQS's
#: bill and on this processor. Measured at 1,000 events/s on a stand-in of SQS that answers in 3 ms: 307
#: requests for 2,000 instead of 1,151. Nothing waits that another of its group waits for.
LINGER = 0.005

#: Entries whose jobs are opened together: what one DynamoDB request takes.
OPEN_BATCH = 25


class HeldEvent:
    """An event that was taken and is not settled: it is, when the last of its entries is out."""

    def __init__(self, ticket: Ticket, size: int, span: Span, entries: int) -> None:
        self.ticket = ticket
        #: Bytes held in memory for it.
        self.size = size
        #: The bridge's part in the event's trace.
        self.span = span
        self._left = entries
        self._is_opening = False
        self._lock = threading.Lock()

    def share(self, more: int) -> None:
        """Add entries, before the one that adds them is out."""
        with self._lock:
            self._left += more

    def set_opening(self, opening: bool) -> bool:
        """Note whether it waits for its job to be opened; True if that is a change."""
        with self._lock:
            was, self._is_opening = self._is_opening, opening
            return was != opening

    def release(self) -> bool:
        """Count one of its entries as out; True for the last."""
        with self._lock:
            self._left -= 1
            return self._left == 0


@dataclass(eq=False, kw_only=True, slots=True)
class Entry:
    """One task of an event, or its rejection, on the way out."""

    held: HeldEvent
    content: EventTasks | Rejection
    #: The queue's name, or REJECTED.
    destination: str
    #: The task's stage and message; None for a rejection.
    stage: str | None = None
    task: TaskMessage | None = None
    #: Whether the tasks of its group are sent one after the other.
    ordered: bool = False
    #: Whether the job that its event begins was opened, and whether it was open before.
    opened: bool = False
    existed: bool = False

    @property
    def begins_job(self) -> bool:
        """Whether its job is to be opened before it may go."""
        return self.content.job is not None and not self.opened


def entries_of(
    content: EventTasks | Rejection, ticket: Ticket, size: int, group: str, queue: str
) -> list[Entry]:
    """Return the entries of a translated event, in the trace of the consumer group that bridges it.

    None where no stage of its job reads the topic. ``queue``: the name of the queue of stages that name none.
    """
    if isinstance(content, Rejection):
        held = HeldEvent(ticket, size, Untraced(None), 1)
        return [Entry(held=held, content=content, destination=REJECTED)]
    if content.plan is not None and not content.tasks:
        return []
    span = tracing.bridge_span(content.event, content.job_id, group)
    held = HeldEvent(ticket, size, span, max(1, len(content.tasks)))
    if content.plan is None:
        return [Entry(held=held, content=content, destination=UNPLANNED)]
    return task_entries(held, content, queue)


def task_entries(held: HeldEvent, content: EventTasks, queue: str) -> list[Entry]:
    """Return one entry for each task of an event that is held."""
    return [
        Entry(
            held=held,
            content=content,
            destination=task.queue or queue,
            stage=route.name,
            task=task.continuing(held.span.traceparent),
            ordered=route.ordered,
        )
        for route, task in content.tasks
    ]


class Outbox:
    """Entries by destination. Threads take batches, open jobs first, and report each entry that is out.

    Of an ordered group one entry is given out at a time, the next only after it: SQS may fail the first of
    two in one request and accept the second. An entity's events wait behind one of them that has no plan yet.
    """

    def __init__(self, batch: int) -> None:
        """``batch``: the most entries that are given out at once."""
        self._batch = batch
        self._changed = threading.Condition()
        self._ready: dict[str, deque[Entry]] = {}
        #: When the oldest of each destination became ready, long ago where another waits for one of them.
        self._since: dict[str, float] = {}
        #: Followers of each group that has an entry ready or out.
        self._followers: dict[tuple[str, str], deque[Entry]] = {}
        #: Entries that would be ready if their job were open.
        self._unopened: Batches[Entry] = Batches(most=OPEN_BATCH, enough=OPEN_BATCH, linger=LINGER)
        self._closed = False

    def put(self, entry: Entry) -> None:
        """Add an entry behind those of its group."""
        with self._changed:
            unplanned = _unplanned_lane(entry)
            lane = unplanned if unplanned in self._followers else self._lane(entry)
            if lane is not None and lane in self._followers:
                self._followers[lane].append(entry)
                self._hurry(entry.destination)
                return
            if lane is not None:
                self._followers[lane] = deque()
            self._offer(entry)

    def take(self) -> list[Entry]:
        """Return a batch of one destination, waiting for its first entry; empty when closed."""
        with self._changed:
            while not self._closed:
                destination, wait = self._next()
                if destination is not None:
                    return self._take(destination)
                self._changed.wait(wait)
            return []

    def take_unopened(self) -> list[Entry]:
        """Return entries whose job is to be opened, waiting for the first; empty when closed."""
        batch = self._unopened.take()
        return [] if self._closed else batch

    def opened(self, entries: Sequence[Entry]) -> None:
        """Let entries go whose job is open now. They have waited for more already."""
        with self._changed:
            for entry in entries:
                entry.opened = True
                self._offer(entry)
                self._hurry(entry.destination)

    def reopen(self, entry: Entry) -> None:
        """Take back an entry that has another job now, which is to be opened; its group waits behind it."""
        with self._changed:
            entry.opened = entry.existed = False
            self._offer(entry)

    def out(self, entries: Sequence[Entry]) -> None:
        """Mark entries as out (sent, rejected or lost): the next of their groups may go."""
        with self._changed:
            for entry in entries:
                lane = self._lane(entry)
                if lane is None:
                    continue
                if entry.destination == UNPLANNED:
                    self.replace(entry, ())
                    continue
                followers = self._followers[lane]
                if followers:
                    self._offer(followers.popleft())
                    if followers:
                        self._hurry(entry.destination)
                else:
                    del self._followers[lane]

    def replace(self, entry: Entry, entries: Iterable[Entry]) -> None:
        """Put ``entries`` in the place of one that had no plan, before those that waited behind it."""
        with self._changed:
            followers = self._followers.pop((UNPLANNED, _entity(entry)))
            for each in (*entries, *followers):
                self.put(each)

    def close(self) -> None:
        """Give out nothing more; what is inside is read from Kafka again."""
        with self._changed:
            self._closed = True
            self._unopened.end()
            self._changed.notify_all()

    def _lane(self, entry: Entry) -> tuple[str, str] | None:
        """Return queue and group where one entry of the group is out at a time."""
        if entry.destination == UNPLANNED:
            return _unplanned_lane(entry)
        return (entry.destination, entry.task.group_id) if entry.task and entry.ordered else None

    def _next(self) -> tuple[str | None, float | None]:
        """Return the destination that is due and waits longest, or the seconds until one is due."""
        now = time.monotonic()
        soonest = None
        # Dicts keep their order of insertion.
        for destination, waiting in self._ready.items():
            left = self._since[destination] + LINGER - now
            if left <= 0 or len(waiting) >= self._batch:
                return destination, None
            soonest = left if soonest is None else min(soonest, left)
        return None, soonest

    def _take(self, destination: str) -> list[Entry]:
        waiting = self._ready.pop(destination)
        batch = [waiting.popleft() for _ in range(min(self._batch, len(waiting)))]
        if waiting:
            # The rest waited as long.
            self._ready[destination] = waiting
        else:
            del self._since[destination]
        # This thread may have been the one that watches when the next is due.
        self._changed.notify()
        return batch

    def _offer(self, entry: Entry) -> None:
        if entry.begins_job:
            self._unopened.put(entry)
            return
        waiting = self._ready.setdefault(entry.destination, deque())
        waiting.append(entry)
        self._since.setdefault(entry.destination, time.monotonic())
        if len(waiting) % self._batch in (0, 1):
            # The first of a batch, for a thread to watch when it is due; the last, which makes it due. Waking
            # a thread costs more than all else that is done with an entry here.
            self._changed.notify()

    def _hurry(self, destination: str) -> None:
        if destination in self._since:
            self._since[destination] = 0.0
            self._changed.notify()


def _unplanned_lane(entry: Entry) -> tuple[str, str] | None:
    """Return the lane of its entity's events that have no plan yet; None for a rejection."""
    return (UNPLANNED, _entity(entry)) if isinstance(entry.content, EventTasks) else None


def _entity(entry: Entry) -> str:
    return entry.content.event.entity_id if entry.content.event else ""
