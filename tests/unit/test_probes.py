"""A job is found lost only if its task is gone, whatever happens to it and to the others of its group."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pipeline.deadletters.awaited import Awaited, UnknownTasksError
from pipeline.deadletters.probes import Probes, most_watched
from pipeline.deadletters.traffic import Traffic
from pipeline.errors import ServiceUnavailableError
from pipeline.jobs import Job, JobPlan, JobState, Look, StageProgress
from pipeline.kafka import Partition
from pipeline.sqs import OutgoingMessage
from pipeline.wire.marker import Marker
from tests.fakes.fifo import FifoQueue, Stored

QUEUE, GROUP, P = "q.fifo", "ada", Partition("letters", 0)
AWAITED = Awaited(groups=frozenset({(QUEUE, GROUP)}), topics=frozenset({"letters"}))
LEASE = 10.0


class World:
    """A job of one task, in a group with others: its event, its message, its record; and a sweep."""

    def __init__(self) -> None:
        self.queue = FifoQueue()
        self.now = 0.0
        self.end, self.committed = 1, 0
        self.done = False
        self.markers: dict[str, Marker] = {}
        self.received: set[Marker] = set()
        self.error: ServiceUnavailableError | None = None
        self.probes = Probes(
            queue_named=lambda _: self,  # type: ignore[arg-type,return-value]
            clock=lambda: self.now,
        )

    def send(self, messages: list[OutgoingMessage]) -> list[Any]:
        """Take a marker, as a queue does."""
        if self.error:
            return [self.error]
        for message in messages:
            headers = json.loads(message.body)["headers"]
            self.markers[self.queue.send(message.group_id)] = Marker.read(headers)
        return [None] * len(messages)

    def sweep(self, awaited: Any = lambda: AWAITED) -> bool:
        """Look at the job; whether its task is said to be gone."""
        self.now += 1
        traffic = Traffic(
            tasks={QUEUE: 9}, events={}, positions={P: (self.committed, self.end)}, read_at=self.now
        )
        if "j" not in self.probes.watched:
            self.probes.watch(self.look(), awaited())
            return False
        return self.probes.advance(self.look(), traffic) is not None

    def look(self) -> Look:
        progress = [StageProgress(stage="read", state="waiting", done=int(self.done), failed=0, total=1)]
        received = frozenset(marker.id for marker in self.received)
        return Look(job=job("j"), progress=progress, markers=received, may_owe=False)

    def receive_all(self) -> None:
        """Let workers receive what is visible, and record and delete the markers."""
        for message in self.queue.receive(100, LEASE):
            if message.message_id in self.markers:
                self.received.add(self.markers[message.message_id])
                self.queue.delete(message.receipt_handle)


def job(job_id: str) -> Job:
    return Job(
        job_id=job_id,
        state=JobState.RUNNING,
        entity_id=GROUP,
        topic="letters",
        plan=JobPlan(stages={"read": ("read",)}),
        submitted_at=1.0,
        updated_at=1.0,
    )


@pytest.fixture
def world() -> World:
    """The job's event is committed, and nothing of it is on the queue."""
    world = World()
    world.committed = world.end
    return world


def test_a_job_is_lost_when_its_marker_is_received(world: World) -> None:
    """Seen, marked, received: three looks."""
    assert not world.sweep()
    assert not world.sweep()
    assert not world.sweep()
    world.receive_all()
    assert world.sweep()
    assert len(world.markers) == 1


def test_no_marker_is_sent_before_the_events_are_tasks(world: World) -> None:
    """Also those that came after the job was seen do not count for ever: only the ones before."""
    world.committed = 0
    for _ in range(3):
        assert not world.sweep()
    world.end += 5
    assert world.markers == {}
    world.committed = 1
    world.sweep()
    assert len(world.markers) == 1


def test_positions_read_before_the_job_was_seen_prove_nothing(world: World) -> None:
    """Its event may have been written in between."""
    early = Traffic(tasks={}, events={}, positions={P: (1, 1)}, read_at=-1.0)
    world.probes.watch(world.look(), AWAITED)
    for _ in range(3):
        assert world.probes.advance(world.look(), early) is None
    assert world.markers == {}


def test_a_change_of_the_job_begins_anew(world: World) -> None:
    """What was received before says nothing of the task that follows."""
    world.sweep()
    world.sweep()
    world.receive_all()
    world.done = True
    assert not world.sweep()
    world.done = False
    assert not world.sweep()


def test_a_job_that_changed_makes_room_for_others(world: World) -> None:
    """It lives."""
    world.sweep()
    world.sweep()
    world.done = True
    world.sweep()
    assert not world.probes.watched


@pytest.mark.parametrize(("open_jobs", "most"), [(0, 100), (100_000, 100), (250_000, 250), (5_000_000, 1000)])
def test_few_jobs_are_watched(open_jobs: int, most: int) -> None:
    """A deep queue of waiting jobs must not grow by as many again, nor must the process."""
    assert most_watched(open_jobs) == most


def test_a_marker_that_was_not_sent_is_sent_by_the_next_sweep(world: World) -> None:
    """The error goes to the sweep, which reports it."""
    world.sweep()
    world.error = ServiceUnavailableError("away")
    with pytest.raises(ServiceUnavailableError):
        world.sweep()
    world.error = None
    world.sweep()
    world.receive_all()
    assert world.sweep()


class Fates(RuleBasedStateMachine):
    """Everything that can happen to a task on a FIFO queue, between the looks of a sweep."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.task: str | None = None
        self.gone = False
        #: What a worker holds of the group, in order, as (message id, handle).
        self.held: list[tuple[str, str]] = []

    @rule()
    def bridge(self) -> None:
        """Make the event a task, then commit it; a crash in between sends it again, which SQS drops."""
        if self.task is None and not self.gone:
            self.task = self.world.queue.send(GROUP)

    @precondition(lambda self: self.task is not None or self.gone)
    @rule()
    def commit(self) -> None:
        self.world.committed = 1

    @rule()
    def other(self) -> None:
        """Another job's task comes into the group."""
        self.world.queue.send(GROUP)

    @precondition(lambda self: not self.held)
    @rule(most=st.integers(1, 4))
    def receive(self, most: int) -> None:
        self.held = [(m.message_id, m.receipt_handle) for m in self.world.queue.receive(most, LEASE)]

    @precondition(lambda self: self.held)
    @rule(recorded=st.booleans())
    def run_head(self, recorded: bool) -> None:
        """Record, then delete; a worker that dies in between leaves the message."""
        message_id, handle = self.held.pop(0)
        if message_id in self.world.markers:
            self.world.received.add(self.world.markers[message_id])
        if message_id == self.task:
            self.world.done = True
        if not recorded:
            self.held = []
            return
        if self.world.queue.delete(handle) and message_id == self.task:
            self.task, self.gone = None, True

    @precondition(lambda self: self.held)
    @rule(delay=st.sampled_from([0.0, 3.0, 60.0]))
    def retry_head(self, delay: float) -> None:
        """Hide it for its backoff, and give back those behind it."""
        (_, handle), *behind = self.held
        self.world.queue.change_visibility(handle, delay)
        for _, each in behind:
            self.world.queue.change_visibility(each, 0)
        self.held = []

    @rule(seconds=st.sampled_from([1.0, LEASE, 100.0]))
    def wait(self, seconds: float) -> None:
        """Time passes; a lease that ended is no longer this worker's to start with."""
        self.world.queue.now += seconds
        if any(not self.world.queue.holds(handle) for _, handle in self.held):
            self.held = []

    @rule()
    def lose(self) -> None:
        """Somebody outside deletes the task."""
        messages = self.world.queue.messages
        found: list[Stored] = [each for each in messages if each.message_id == self.task]
        for each in found:
            messages.remove(each)
            self.task, self.gone = None, True
            self.held = [held for held in self.held if held[0] != each.message_id]

    @rule()
    def sweep(self) -> None:
        """A task that is not gone is never said to be; a job that is done waits for nothing."""
        with contextlib.suppress(UnknownTasksError):
            if self.world.sweep(awaited=self.awaited):
                assert self.gone
                assert not self.world.done

    def awaited(self) -> Awaited:
        if self.world.done:
            raise UnknownTasksError("no stage waits for a task")
        return AWAITED

    @invariant()
    def a_lost_job_is_found(self) -> None:
        """Not for ever unseen: as soon as workers take what is visible."""
        if self.gone and not self.world.done and self.world.committed and not self.held:
            self.world.queue.now += 1000
            found = False
            for _ in range(4):
                found = found or self.world.sweep()
                while any(m.message_id in self.world.markers for m in self.world.queue.messages):
                    for message in self.world.queue.receive(100, LEASE):
                        if message.message_id in self.world.markers:
                            self.world.received.add(self.world.markers[message.message_id])
                        self.world.queue.delete(message.receipt_handle)
            assert found


Fates.TestCase.settings = settings(max_examples=200, stateful_step_count=30, deadline=None)
TestFates = Fates.TestCase
