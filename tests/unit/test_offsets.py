"""Nothing is committed past an event that is not settled, in any order and across rebalances."""

import threading

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from pipeline.bridge.offsets import OffsetTracker, Ticket
from pipeline.kafka import Partition

P, Q = Partition("letters", 0), Partition("letters", 1)


@pytest.fixture
def tracker() -> OffsetTracker:
    tracker = OffsetTracker(clock=lambda: 0.0)
    tracker.assign([P])
    return tracker


def _take(tracker: OffsetTracker, *offsets: int, partition: Partition = P) -> list[Ticket]:
    tickets = [tracker.take(partition, offset) for offset in offsets]
    return [ticket for ticket in tickets if ticket]


def test_the_first_unsettled_event_holds_the_offset(tracker: OffsetTracker) -> None:
    """Later events may be settled first; the offset waits for the earliest."""
    first, second, third = _take(tracker, 5, 6, 7)
    tracker.settle(second)
    assert tracker.committable() == {}
    tracker.settle(first)
    assert tracker.committable() == {P: 7}
    tracker.settle(third)
    assert tracker.committable() == {P: 8}


def test_offsets_may_have_gaps(tracker: OffsetTracker) -> None:
    """Compaction and transactions leave holes; the next offset is one past the last settled event."""
    for ticket in _take(tracker, 10, 20, 30)[:2]:
        tracker.settle(ticket)
    assert tracker.committable() == {P: 21}


def test_the_end_is_committed_when_nothing_is_unsettled(tracker: OffsetTracker) -> None:
    """Behind the last event there may be transaction markers, which would be lag for ever."""
    tracker.reach({P: 4})
    assert tracker.committable() == {P: 4}
    tracker.committed({P: 4})
    first, second = _take(tracker, 5, 7)
    tracker.reach({P: 9, Q: 9})
    tracker.settle(first)
    assert tracker.committable() == {P: 6}
    tracker.settle(second)
    assert tracker.committable() == {P: 9}
    tracker.committed({P: 9})
    tracker.reach({P: 9})
    assert tracker.committable() == {}


def test_a_partition_read_from_its_start_again_is_followed_anew(tracker: OffsetTracker) -> None:
    """Its topic was made again: lower offsets are other events, and those in flight go on."""
    (old,) = _take(tracker, 40)
    tracker.reach({P: 41})
    tracker.restart(P)
    assert not old.lost
    (new,) = _take(tracker, 0)
    tracker.settle(old)
    assert tracker.committable() == {}
    tracker.settle(new)
    assert tracker.committable() == {P: 1}


def test_what_is_committed_is_not_offered_again(tracker: OffsetTracker) -> None:
    """A partition that did not move on needs no commit."""
    for ticket in _take(tracker, 1, 2):
        tracker.settle(ticket)
    tracker.committed(tracker.committable())
    assert tracker.committable() == {}
    assert tracker.span(P) == 0


def test_the_span_is_what_a_crash_repeats(tracker: OffsetTracker) -> None:
    """Settled events count until they are committed."""
    tickets = _take(tracker, 1, 2, 3)
    tracker.settle(tickets[0])
    assert tracker.span(P) == 3
    tracker.committed(tracker.committable())
    assert tracker.span(P) == 2


def test_age_is_that_of_the_oldest_uncommitted() -> None:
    """It grows while the oldest is not committed, and is none when all are."""
    now = [100.0]
    tracker = OffsetTracker(clock=lambda: now[0])
    tracker.assign([P])
    (first,) = _take(tracker, 1)
    now[0] = 130.0
    _take(tracker, 2)
    assert tracker.age(P) == 30.0
    tracker.settle(first)
    tracker.committed(tracker.committable())
    assert tracker.age(P) == 0.0


def test_an_event_of_a_partition_not_held_is_not_taken(tracker: OffsetTracker) -> None:
    """It is another member's."""
    assert tracker.take(Q, 1) is None
    tracker.revoke([P])
    assert tracker.take(P, 1) is None


def test_late_work_of_a_lost_partition_is_ignored(tracker: OffsetTracker) -> None:
    """Given away and given back, a partition starts anew: an old event settled late moves nothing."""
    (old,) = _take(tracker, 5)
    tracker.revoke([P])
    tracker.assign([P])
    assert old.lost
    (new,) = _take(tracker, 5)
    tracker.settle(old)
    assert tracker.committable() == {}
    tracker.settle(new)
    assert tracker.committable() == {P: 6}


def test_reading_again_from_further_back_starts_anew(tracker: OffsetTracker) -> None:
    """Records read beyond the position are forgotten, because they will be read again."""
    (ahead,) = _take(tracker, 10)
    (back,) = _take(tracker, 5)
    tracker.settle(ahead)
    assert tracker.committable() == {}
    tracker.settle(back)
    assert tracker.committable() == {P: 6}


def test_waiting_ends_when_all_is_settled_or_lost(tracker: OffsetTracker) -> None:
    """A rebalance waits for what is in flight, not longer than it may, and not for what is gone."""
    first, second = _take(tracker, 1, 2)
    assert not tracker.wait_settled([P], 0.01)
    tracker.settle(first)
    timer = threading.Timer(0.05, tracker.settle, [second])
    timer.start()
    assert tracker.wait_settled([P], 5)
    timer.join()
    assert tracker.wait_settled([Q], 0)


class Rebalancing(RuleBasedStateMachine):
    """Takes, settles, commits and loses partitions in any order, against a model that knows all."""

    tickets = Bundle("tickets")

    def __init__(self) -> None:
        super().__init__()
        self.tracker = OffsetTracker(clock=lambda: 0.0)
        #: The committed offset of each partition, as Kafka has it.
        self.committed = {P: 0, Q: 0}
        self.next: dict[Partition, int] = {}
        #: Everything that ever left for SQS.
        self.settled: dict[Partition, set[int]] = {P: set(), Q: set()}

    @rule(partition=st.sampled_from([P, Q]))
    def assign(self, partition: Partition) -> None:
        self.tracker.assign([partition])
        self.next[partition] = self.committed[partition]

    @rule(partition=st.sampled_from([P, Q]))
    def revoke(self, partition: Partition) -> None:
        self.tracker.revoke([partition])
        self.next.pop(partition, None)

    @rule(target=tickets, partition=st.sampled_from([P, Q]))
    def take(self, partition: Partition) -> Ticket | None:
        if partition not in self.next:
            assert self.tracker.take(partition, 0) is None
            return None
        # A gap once is a gap for ever: offsets divisible by seven hold no event.
        offset = self.next[partition] + (self.next[partition] % 7 == 0)
        self.next[partition] = offset + 1
        return self.tracker.take(partition, offset)

    @rule(ticket=tickets)
    def settle(self, ticket: Ticket | None) -> None:
        if ticket is not None:
            self.settled[ticket.partition].add(ticket.offset)
            self.tracker.settle(ticket)

    @rule()
    def commit(self) -> None:
        offsets = self.tracker.committable()
        assert set(offsets) <= set(self.next)
        for partition, offset in offsets.items():
            # Not below: but the same again, when the answer of a commit was lost.
            assert offset >= self.committed[partition]
            self.committed[partition] = offset
        self.tracker.committed(offsets)
        assert self.tracker.committable() == {}

    @rule()
    def lose_the_answer_of_a_commit(self) -> None:
        """Kafka has it, this member does not know."""
        for partition, offset in self.tracker.committable().items():
            self.committed[partition] = max(offset, self.committed[partition])

    @invariant()
    def nothing_is_skipped(self) -> None:
        for partition, committed in self.committed.items():
            events = {offset for offset in range(committed) if offset % 7}
            assert events <= self.settled[partition]


Rebalancing.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
TestRebalancing = Rebalancing.TestCase
