"""Whatever SQS answers, every task gets there in the order of its group, and nothing is settled before."""

import random
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from consumers.load import Load
from consumers.offsets import OffsetTracker
from consumers.outbox import Entry, Outbox, SharedTicket
from consumers.senders import Senders
from pipeline.errors import (
    MessageRefusedError,
    ServiceError,
    ServiceRefusedError,
    ServiceUnavailableError,
)
from pipeline.jobs import JobPlan, NewJob
from pipeline.kafka import Message, Partition
from pipeline.patience import Patience
from pipeline.sqs import OutgoingMessage
from tests.processes import wait_until

P = Partition("letters", 0)


class FakeQueue:
    """Takes tasks, fails as told, and drops the second of one deduplication id, as SQS does."""

    def __init__(self, seed: int = 0, failing: float = 0.0) -> None:
        self.taken: list[OutgoingMessage] = []
        self.refused: set[str] = set()
        self.denied = False
        self.failing = failing
        self._random = random.Random(seed)
        self._ids: set[str] = set()
        self._lock = threading.Lock()

    def send(self, messages: Sequence[OutgoingMessage]) -> list[ServiceError | None]:
        with self._lock:
            groups = [message.group_id for message in messages]
            assert len(set(groups)) == len(groups), "two of a group in one request"
            if self.denied:
                return [ServiceRefusedError("denied")] * len(messages)
            return [self._take(message) for message in messages]

    def _take(self, message: OutgoingMessage) -> ServiceError | None:
        if message.deduplication_id in self.refused:
            return MessageRefusedError("too large")
        lost = self._random.random() < self.failing
        # Half of what fails was taken, and only the answer was lost.
        if (not lost or self._random.random() < 0.5) and message.deduplication_id not in self._ids:
            self._ids.add(message.deduplication_id)
            self.taken.append(message)
        return ServiceUnavailableError("lost") if lost else None


class FakeStore:
    """Opens jobs, failing now and then."""

    def __init__(self) -> None:
        self.opened: list[str] = []
        self._failures = 3

    def open_jobs(self, jobs: Sequence[NewJob]) -> list[bool | ServiceError]:
        if self._failures:
            self._failures -= 1
            return [ServiceUnavailableError("throttled")] * len(jobs)
        self.opened += [job.job_id for job in jobs]
        return [True] * len(jobs)


class FakeRejects:
    """Remembers what was rejected."""

    def __init__(self) -> None:
        self.buried: list[Entry] = []

    def bury(self, entries: Sequence[Entry]) -> None:
        self.buried += entries

    def close(self) -> None: ...


class World:
    """Senders around fakes."""

    def __init__(self, queue: FakeQueue) -> None:
        self.queue = queue
        self.outbox = Outbox()
        self.tracker = OffsetTracker()
        self.tracker.assign([P])
        self.load = Load()
        self.store = FakeStore()
        self.rejects = FakeRejects()
        store: Any = self.store
        rejects: Any = self.rejects
        queue_of: Any = lambda _: self.queue  # noqa: E731 - the type is what is wanted
        self.senders = Senders(queue_of, self.outbox, self.tracker, self.load, store, rejects, Patience())
        self.senders.start()

    def put(self, offset: int, group: str, *, ordered: bool = True, job: NewJob | None = None) -> None:
        ticket = self.tracker.take(P, offset)
        assert ticket
        self.load.add(1)
        message = Message(
            topic="letters", partition=0, offset=offset, timestamp_ms=1, key=None, value=b"", headers=()
        )
        self.outbox.put(
            Entry(
                source=message,
                event=None,
                ticket=SharedTicket(ticket, 1),
                job_id="j",
                job=job,
                destination="tasks.fifo",
                stage="read",
                task=OutgoingMessage(body=str(offset), group_id=group, deduplication_id=str(offset)),
                ordered=ordered,
            )
        )

    def settled(self) -> int:
        """The offset that may be committed."""
        return self.tracker.committable().get(P, 0)


@pytest.fixture
def worlds(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[World]]:
    """Worlds to be closed; without pauses between tries."""
    monkeypatch.setattr("pipeline.patience.LONGEST_PAUSE", 0.001)
    made: list[World] = []
    yield made
    for world in made:
        world.senders.close()


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_each_group_survives_failures(worlds: list[World], seed: int) -> None:
    """A third of all entries fail, half of those after they were taken."""
    world = World(FakeQueue(seed, failing=0.33))
    worlds.append(world)
    for n in range(300):
        world.put(n, f"group-{n % 11}")
    wait_until(lambda: world.settled() == 300, "all settled")
    for group in range(11):
        bodies = [m.body for m in world.queue.taken if m.group_id == f"group-{group}"]
        assert bodies == [str(n) for n in range(group, 300, 11)]
    assert world.load.share() == 0
    assert world.senders.failure is None


def test_a_job_is_open_before_its_task_is_sent(worlds: list[World]) -> None:
    """However often opening it fails first."""
    world = World(FakeQueue())
    worlds.append(world)
    job = NewJob(job_id="j", entity_id="ada", topic="letters", plan=JobPlan(stages={}), submitted_at=1)
    world.put(0, "a", job=job)
    wait_until(lambda: world.queue.taken, "sent")
    assert world.store.opened == ["j"]


def test_what_sqs_refuses_is_rejected_and_passed(worlds: list[World]) -> None:
    """Its group goes on behind it; its offset is settled when it is buried."""
    queue = FakeQueue()
    queue.refused = {"1"}
    world = World(queue)
    worlds.append(world)
    for n in range(3):
        world.put(n, "a")
    wait_until(lambda: world.settled() == 3, "all settled")
    assert [message.body for message in queue.taken] == ["0", "2"]
    (entry,) = world.rejects.buried
    assert entry.rejection
    assert (entry.rejection.error, entry.rejection.stage) == ("MessageRefusedError", "read")


def test_a_queue_that_refuses_all_ends_it(worlds: list[World]) -> None:
    """Nothing is buried and nothing settled: it is the queue's fault, not the events'."""
    queue = FakeQueue()
    queue.denied = True
    world = World(queue)
    worlds.append(world)
    world.put(0, "a")
    wait_until(lambda: world.senders.failure, "it ended")
    assert isinstance(world.senders.failure, ServiceRefusedError)
    assert world.rejects.buried == []
    assert world.settled() == 0


def test_what_is_lost_is_not_sent(worlds: list[World]) -> None:
    """A partition that was given away is another member's; its groups and its memory are freed."""
    queue = FakeQueue(failing=1.0)
    world = World(queue)
    worlds.append(world)
    for n in range(20):
        world.put(n, "same")
    wait_until(lambda: queue.taken, "the first is under way")
    world.tracker.revoke([P])
    queue.failing = 0.0
    wait_until(lambda: world.load.share() == 0, "all let go")
    assert [message.body for message in queue.taken] == ["0"]
