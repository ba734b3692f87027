"""Reading pauses when too much is held, too much would be repeated, or a topic's queue is too deep."""

from typing import Any

import pytest

from pipeline.bridge import throttle
from pipeline.bridge.offsets import OffsetTracker, Ticket
from pipeline.bridge.throttle import BufferUsage, Throttle
from pipeline.kafka import Partition

P, Q = Partition("letters", 0), Partition("parcels", 0)


class FakeConsumer:
    """Remembers what is paused."""

    def __init__(self) -> None:
        self.paused: set[Partition] = set()
        self.pauses = 0

    def pause(self, partitions: set[Partition]) -> None:
        self.pauses += 1
        assert self.paused.isdisjoint(partitions)
        self.paused |= partitions

    def resume(self, partitions: set[Partition]) -> None:
        assert partitions <= self.paused
        self.paused -= partitions


class World:
    """A throttle, and what it looks at."""

    def __init__(self) -> None:
        self.now = 0.0
        self.tracker = OffsetTracker(clock=lambda: self.now)
        self.tracker.assign([P, Q])
        self.usage = BufferUsage()
        self.deep: set[str] = set()
        self.consumer = FakeConsumer()
        self.throttle = Throttle(lambda: self.deep, self.tracker, self.usage, clock=lambda: self.now)

    def take(self, partition: Partition, count: int) -> list[Ticket]:
        tickets = [self.tracker.take(partition, n) for n in range(count)]
        return [ticket for ticket in tickets if ticket]

    def settle(self, tickets: list[Ticket]) -> None:
        for ticket in tickets:
            self.tracker.settle(ticket)
        self.tracker.committed(self.tracker.committable())

    def full(self) -> bool:
        consumer: Any = self.consumer
        self.throttle.apply(consumer)
        return self.throttle.full

    def paused(self) -> set[Partition]:
        """Return the paused partitions after a step."""
        self.full()
        self.now += throttle.PAUSE_AFTER
        assert not self.full()
        return self.consumer.paused


@pytest.fixture
def world() -> World:
    return World()


def test_a_partition_pauses_at_its_span_and_resumes_at_half(world: World) -> None:
    """Only that partition; what a crash would repeat is bounded."""
    tickets = world.take(P, throttle.MAX_SPAN)
    assert world.paused() == {P}
    world.settle(tickets[:100])
    assert world.paused() == {P}
    world.settle(tickets[100:501])
    assert world.paused() == set()


def test_what_is_over_in_a_moment_pauses_nothing(world: World) -> None:
    """A pause throws away what is fetched: nothing is polled for a moment instead, again and again."""
    taken = world.take(P, throttle.MAX_SPAN)
    for first in range(throttle.MAX_SPAN, 5 * throttle.MAX_SPAN, throttle.MAX_SPAN):
        assert world.full()
        world.now += throttle.PAUSE_AFTER * 0.9
        world.settle(taken)
        assert not world.full()
        taken = [t for n in range(first, first + throttle.MAX_SPAN) if (t := world.tracker.take(P, n))]
    assert world.consumer.pauses == 0


def test_a_stuck_partition_holds_up_the_others_for_a_moment_only(world: World) -> None:
    """Paused then, until it is well below its limit; the others go on."""
    stuck = world.take(P, throttle.MAX_SPAN)
    assert world.paused() == {P}
    for _ in range(5):
        world.now += throttle.PAUSE_AFTER
        assert not world.full()
    world.settle(stuck)
    assert world.paused() == set()


def test_a_partition_pauses_when_its_oldest_event_is_stuck(world: World) -> None:
    """One event that does not get out holds its partition after a minute."""
    tickets = world.take(Q, 1)
    world.now = throttle.MAX_AGE - 1
    assert world.paused() == set()
    assert not world.full()
    world.now = throttle.MAX_AGE
    assert world.paused() == {Q}
    world.settle(tickets)
    assert world.paused() == set()


@pytest.mark.parametrize("size", [0, throttle.MAX_BYTES // 100 + 1])
def test_all_pause_when_too_much_is_held(world: World, size: int) -> None:
    """By number, or by bytes."""
    count = throttle.MAX_EVENTS if size == 0 else 100
    for _ in range(count):
        world.usage.add(size)
    assert world.paused() == {P, Q}
    for _ in range(count // 2 + 1):
        world.usage.remove(size)
    assert world.paused() == set()


@pytest.mark.parametrize("size", [0, throttle.MAX_OPENING_BYTES // 100 + 1])
def test_only_partitions_whose_events_wait_for_their_jobs_pause_and_at_once(world: World, size: int) -> None:
    """By number, or by bytes: the others are read on, without a moment in which nothing is polled."""
    count = throttle.MAX_OPENING_EVENTS if size == 0 else 100
    for _ in range(count):
        world.usage.add(size)
        world.usage.begin_opening(P, size)
    for _ in range(2):
        assert not world.full()
        assert world.consumer.paused == {P}
        world.now += throttle.PAUSE_AFTER
    for _ in range(count // 2 + 1):
        world.usage.end_opening(P, size)
    assert not world.full()
    assert world.consumer.paused == set()


def test_events_that_wait_for_their_jobs_leave_room_for_as_many_others_as_ever(world: World) -> None:
    """They are held, but do not count against the limit of the others; once their jobs are open they do."""
    for _ in range(throttle.MAX_OPENING_EVENTS - 1):
        world.usage.add(1)
        world.usage.begin_opening(P, 1)
    for _ in range(throttle.MAX_EVENTS - 1):
        world.usage.add(1)
    assert world.paused() == set()
    assert world.usage.held()[0] == throttle.MAX_EVENTS + throttle.MAX_OPENING_EVENTS - 2
    world.usage.end_opening(P, 1)
    assert world.paused() == {P, Q}


def test_a_topic_pauses_at_once_when_a_queue_that_it_feeds_is_deep(world: World) -> None:
    """The other topics are read on, without a moment in which nothing is polled."""
    world.deep = {"letters"}
    assert not world.full()
    assert world.consumer.paused == {P}
    assert not world.full()
    world.deep = set()
    assert not world.full()
    assert world.consumer.paused == set()


def test_a_topic_of_a_deep_queue_stays_paused_though_its_span_is_short(world: World) -> None:
    """Each limit holds by itself."""
    tickets = world.take(P, throttle.MAX_SPAN)
    assert world.paused() == {P}
    world.deep = {"letters"}
    world.settle(tickets)
    assert world.paused() == {P}
    world.deep = set()
    assert world.paused() == set()


def test_a_partition_that_comes_back_is_not_taken_for_paused(world: World) -> None:
    """Kafka's client forgets the pause with the partition."""
    world.take(P, throttle.MAX_SPAN)
    assert world.paused() == {P}
    world.tracker.revoke([P])
    world.throttle.forget([P])
    world.consumer.paused.clear()
    world.tracker.assign([P])
    assert world.paused() == set()
    world.take(P, throttle.MAX_SPAN)
    assert world.paused() == {P}


def test_a_commit_is_wanted_before_the_span_is_full(world: World) -> None:
    """At a thousand events a second the timer alone would be too slow."""
    world.take(P, throttle.MAX_SPAN // 2 - 1)
    assert not world.throttle.wants_commit()
    world.tracker.take(P, 10_000)
    assert world.throttle.wants_commit()
