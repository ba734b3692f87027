"""Lanes and intake under attack: any order of receives, ends, failures, lost leases and lost connections."""

import threading
from collections.abc import Iterator
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from pipeline.transport import intake as intake_module
from pipeline.transport import lease as lease_module
from pipeline.transport.capacity import RECEIVE_AHEAD, Capacity
from pipeline.transport.intake import HELD_LIMIT, UNSETTLED_LIMIT, Intake
from pipeline.transport.lease import LONGEST_HOLD, Lease, Phase
from tests.fakes.fifo import FifoQueue

LEASE = 30.0
SLOTS = 3


class Worker:
    """An intake with its surroundings in a worker, one step at a time instead of on threads."""

    def __init__(self, queue: FifoQueue) -> None:
        self.queue = queue
        self.intake = Intake(on_ready=lambda: None, on_unwanted=self.release)
        self.intake.slots = SLOTS
        #: what disposal was told: (lease, None to delete it, else the delay of its return)
        self.orders: list[tuple[Lease, float | None]] = []
        #: delivered and running: tag by message id
        self.running: dict[str, str] = {}
        #: ran well and passed, not settled yet, in the order they ran
        self.unsettled: list[Lease] = []
        self.old_tags: list[str] = []

    def receive(self, most: int) -> None:
        self.intake.hold(self.ask(most))

    def ask(self, most: int) -> list[Lease]:
        """Return messages that a receiver has and that are not held yet, as during a long look-up."""
        return [
            Lease.of(message, "q", deadline=message.requested_at + LEASE)
            for message in self.queue.receive(most, LEASE)
        ]

    def finish(self, tag: str) -> Lease | None:
        lease = self.intake.finish(tag)
        self.old_tags.append(tag)
        if lease is not None:
            self.running.pop(lease.message_id, None)
        return lease

    def let_pass(self, lease: Lease) -> None:
        self.unsettled.append(lease)
        self.intake.let_pass(lease)

    def settle(self, lease: Lease) -> None:
        """Settle a passed one, unless it went back with one before it."""
        self.unsettled.remove(lease)
        if lease.phase is Phase.FINISHED:
            self.intake.advance(lease)
            self.delete(lease)

    def give_back(self, lease: Lease, delay: float) -> list[Lease]:
        left = self.intake.give_back(lease)
        self.orders += [(each, delay if each is lease else 0) for each in left]
        return left

    def delete(self, lease: Lease) -> None:
        self.orders += [(each, None) for each in self.intake.delete([lease])]

    def release(self, leases: object) -> None:
        assert isinstance(leases, list)
        self.orders += [(lease, 0.0) for lease in leases]

    def carry_out(self, position: int) -> None:
        lease, delay = self.orders.pop(position)
        handle = lease.message.receipt_handle
        if delay is None:
            self.queue.delete(handle)
            self.intake.forget([lease])
        elif self.intake.is_held(lease):
            self.queue.change_visibility(handle, delay)
            self.intake.forget([lease])

    def beat(self, lost: frozenset[int]) -> None:
        for position, lease in enumerate(self.intake.due(self.queue.now + LEASE * 2 / 3)):
            if position in lost:
                continue  # no answer: tried again at the next beat
            if self.queue.change_visibility(lease.message.receipt_handle, LEASE):
                lease.deadline = self.queue.now + LEASE
            elif self.intake.is_held(lease) and lease.phase is not Phase.DELETING:
                self.release(self.intake.cut(lease.lane))


class LanesMachine(RuleBasedStateMachine):
    """One worker under test, another that takes what it can, and a clock that jumps."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = FifoQueue()
        self.patches = [
            patch.object(module, "boottime", lambda: self.queue.now)
            for module in (lease_module, intake_module)
        ]
        for each in self.patches:
            each.start()
        self.worker = Worker(self.queue)
        self.sent: dict[str, list[str]] = {}
        self.done: set[str] = set()
        self.elsewhere: list[str] = []
        #: deleted, by this worker or another one
        self.settled: set[str] = set()
        #: received, and being looked up
        self.in_hand: list[list[Lease]] = []
        self.lost_time = False

    def teardown(self) -> None:
        try:
            self._drain()
        finally:
            for each in self.patches:
                each.stop()

    # ─── The world ───

    @initialize(count=st.integers(2, 8))
    def some_messages(self, count: int) -> None:
        for number in range(count):
            self.send("abc"[number % 3])

    @rule(group=st.sampled_from("abcd"))
    def send(self, group: str) -> None:
        self.sent.setdefault(group, []).append(self.queue.send(group))

    @rule(seconds=st.sampled_from([1.0, 5.0, 12.0]))
    def time_passes(self, seconds: float) -> None:
        self.queue.now += seconds

    @rule()
    def the_machine_sleeps(self) -> None:
        self.lost_time = True
        self.queue.now += LEASE + 1

    @rule(most=st.integers(1, 4))
    def another_worker_receives(self, most: int) -> None:
        self.elsewhere += [m.receipt_handle for m in self.queue.receive(most, LEASE)]

    @rule()
    def another_worker_is_done(self) -> None:
        for handle in self.elsewhere:
            if self.queue.delete(handle):
                self.done.add(handle.split("/")[0])
                self.settled.add(handle.split("/")[0])
        self.elsewhere.clear()

    # ─── The worker ───

    @rule(most=st.integers(1, 10))
    def receive(self, most: int) -> None:
        self.worker.receive(most)

    @rule(most=st.integers(1, 4))
    def receive_and_look_up(self, most: int) -> None:
        self.in_hand.append(self.worker.ask(most))

    @rule(data=st.data())
    def a_look_up_is_answered(self, data: st.DataObject) -> None:
        if self.in_hand:
            self.worker.intake.hold(self.in_hand.pop(data.draw(st.integers(0, len(self.in_hand) - 1))))

    @rule(starts=st.booleans())
    def deliver(self, starts: bool) -> None:
        lease = self.worker.intake.take()
        if lease is None:
            return
        self._check_start(lease)
        assert lease.message_id not in self.worker.running, "started twice"
        self.worker.running[lease.message_id] = lease.tag
        if starts:
            self.worker.intake.started(lease, self.queue.now + 1000)

    @rule(runs=st.integers(1, 6), then=st.sampled_from(["nothing", "break", "lose"]), data=st.data())
    def some_run_one_after_the_other(self, runs: int, then: str, data: st.DataObject) -> None:
        """What single steps seldom lead to: several of a lane passed, and the next one running."""
        self.worker.receive(10)
        for _ in range(runs):
            self.deliver(True)
            for tag in list(self.worker.running.values())[:1]:
                self._pass(self.worker.finish(tag))
        self.deliver(True)
        if then == "break":
            self.settlement_breaks(data, 0.0)
        elif then == "lose":
            # The leases of all but the first are extended.
            self.queue.now += LEASE / 2
            self.worker.beat(frozenset({0}))
            self.queue.now += LEASE / 2

    @rule(data=st.data(), recorded=st.booleans())
    def a_run_of_a_strict_stage_ends_well(self, data: st.DataObject, recorded: bool) -> None:
        lease = self._end_one(data)
        if lease is not None and not self._goes_back(lease):
            self.done.add(lease.message_id)
            self._settle_lane_of(lease)
            self._note_settled(lease)
            if recorded:
                self.worker.intake.advance(lease)
            self.worker.delete(lease)

    @rule(data=st.data())
    def a_run_ends_well(self, data: st.DataObject) -> None:
        self._pass(self._end_one(data))

    @rule(data=st.data())
    def what_passed_is_settled(self, data: st.DataObject) -> None:
        if first := self._first_unsettled(data):
            self._settle(first)

    @rule(data=st.data(), delay=st.sampled_from([0.0, 20.0]))
    def settlement_breaks(self, data: st.DataObject, delay: float) -> None:
        """What passed is not recorded and goes back: all that ran behind it runs again, after it."""
        if first := self._first_unsettled(data):
            self.worker.unsettled.remove(first)
            if first.phase is Phase.FINISHED:
                went_back = {lease.message_id for lease in self.worker.give_back(first, delay)}
                self.done -= went_back - self.settled

    @rule(data=st.data(), delay=st.sampled_from([0.0, 20.0]))
    def a_run_fails(self, data: st.DataObject, delay: float) -> None:
        if lease := self._end_one(data):
            self._settle_lane_of(lease)
            self.worker.give_back(lease, delay)
            self.worker.delete(lease)  # whoever comes second is not heard

    @rule(data=st.data())
    def disposal_works(self, data: st.DataObject) -> None:
        if self.worker.orders:
            self.worker.carry_out(data.draw(st.integers(0, len(self.worker.orders) - 1)))

    @rule(lost=st.frozensets(st.integers(0, 5), max_size=2))
    def heartbeat(self, lost: frozenset[int]) -> None:
        self.worker.beat(lost)

    @rule()
    def the_connection_is_lost(self) -> None:
        intake = self.worker.intake
        started = [lease for lease in intake._delivered.values() if lease.run_until is not None]
        intake.restore()
        assert all(intake.delivered(lease.tag) is lease for lease in started), "what runs goes on"
        for message_id, tag in list(self.worker.running.items()):
            if intake.delivered(tag) is None:
                del self.worker.running[message_id]
                self.worker.old_tags.append(tag)

    @rule()
    def the_queue_is_cancelled(self) -> None:
        self.the_connection_is_lost()
        self.worker.release(self.worker.intake.cut_all("q"))
        assert self.worker.intake.counts()["waiting"] == 0

    @rule(data=st.data())
    def an_old_delivery_ends_again(self, data: st.DataObject) -> None:
        if self.worker.old_tags:
            assert self.worker.intake.finish(data.draw(st.sampled_from(self.worker.old_tags))) is None

    # ─── Promises ───

    def _check_start(self, lease: Lease) -> None:
        assert self.queue.holds(lease.message.receipt_handle), "started without its lease"
        for passed in self.worker.unsettled:
            if passed.lane == lease.lane and passed.phase is Phase.FINISHED:
                assert self.queue.holds(passed.message.receipt_handle), "started behind one that was lost"
        for earlier in self.sent[lease.message.group_id]:
            if earlier == lease.message_id:
                return
            assert earlier in self.done, f"{lease.message_id} started before {earlier} was done"

    @invariant()
    def counts_are_of_what_is_held(self) -> None:
        intake = self.worker.intake
        counts = intake.counts()
        for phase in Phase:
            held = [x for x in intake._held.values() if x.phase is phase]
            assert counts[phase.value] == len(held), phase
        assert {x.tag for x in intake._held.values() if x.phase is Phase.DELIVERED} == set(intake._delivered)
        assert len(intake._delivered) <= SLOTS

    @invariant()
    def what_waits_is_in_its_lane_once(self) -> None:
        intake = self.worker.intake
        in_lanes = [x for lane in intake._lanes._lanes.values() for x in (*lane.passed, *lane.waiting)]
        assert len(in_lanes) == len({id(lease) for lease in in_lanes})
        waiting = [x for x in intake._held.values() if x.phase is Phase.WAITING]
        assert all(lease in in_lanes for lease in waiting)
        assert all(intake.is_held(lease) for lease in in_lanes)

    def _end_one(self, data: st.DataObject) -> Lease | None:
        tags = list(self.worker.running.values())
        if not tags:
            return None
        return self.worker.finish(data.draw(st.sampled_from(tags)))

    def _first_unsettled(self, data: st.DataObject) -> Lease | None:
        """Return one that passed, the first of its lane: settlement keeps the order."""
        firsts = {lease.lane: lease for lease in reversed(self.worker.unsettled)}
        return data.draw(st.sampled_from(list(firsts.values()))) if firsts else None

    def _settle_lane_of(self, lease: Lease) -> None:
        for before in [x for x in self.worker.unsettled if x.lane == lease.lane]:
            self._settle(before)

    def _settle(self, lease: Lease) -> None:
        if lease.phase is Phase.FINISHED:
            self._note_settled(lease)
        self.worker.settle(lease)

    def _note_settled(self, lease: Lease) -> None:
        """Check that all before it are settled: what is recorded does not run again after one behind it."""
        group = self.sent[lease.message.group_id]
        assert set(group[: group.index(lease.message_id)]) <= self.settled, "settled before one before it"
        self.settled.add(lease.message_id)

    def _pass(self, lease: Lease | None) -> None:
        if lease is not None and not self._goes_back(lease):
            self.done.add(lease.message_id)
            self.worker.let_pass(lease)

    def _goes_back(self, lease: Lease) -> bool:
        """Give a run back that does not count, because one before it went back meanwhile."""
        if lease.void:
            self.worker.give_back(lease, 0)
        return lease.void

    def _drain(self) -> None:
        """Whatever happened, everything is done in the end and nothing is held."""
        worker = self.worker
        for _ in range(10 * sum(map(len, self.sent.values())) + 20):
            for tag in list(worker.running.values()):
                self._pass(worker.finish(tag))
            for passed in list(worker.unsettled):
                self._settle(passed)
            while worker.orders:
                worker.carry_out(0)
            if not self.queue.messages and not any(worker.intake.counts().values()):
                break
            self.queue.now += LEASE / 3
            worker.beat(frozenset())
            worker.receive(10)
            while lease := worker.intake.take():
                self._check_start(lease)
                worker.running[lease.message_id] = lease.tag
        assert not self.queue.messages, "lost in the queue"
        assert self.done == {message for group in self.sent.values() for message in group}
        assert worker.intake.counts() == dict.fromkeys(worker.intake.counts(), 0)


LanesMachine.TestCase.settings = settings(
    max_examples=200, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
)
TestLanes = LanesMachine.TestCase


# ─── What is held ───


@pytest.fixture
def queue() -> Iterator[FifoQueue]:
    queue = FifoQueue()
    with (
        patch.object(lease_module, "boottime", lambda: queue.now),
        patch.object(intake_module, "boottime", lambda: queue.now),
    ):
        yield queue


def _room(intake: Intake, queue: str = "q") -> int:
    with intake._lock:
        return max(0, intake._room(queue))


def _asked(intake: Intake, queue: str = "q") -> int:
    """Return how many messages a receiver would ask for, and let it bring none."""
    allowed = intake.ask(queue, threading.Event())
    assert allowed is not None
    intake.asked(allowed)
    return allowed.messages


def test_a_message_given_back_and_here_again_is_a_new_lease(queue: FifoQueue) -> None:
    """A return at once may be received before its answer: the message must not be dropped with the answer."""
    worker = Worker(queue)
    queue.send("a")
    worker.receive(1)
    first = worker.intake.take()
    assert first is not None
    worker.finish(first.tag)
    worker.give_back(first, 0)
    queue.change_visibility(first.message.receipt_handle, 0)  # SQS has done it, the answer is on its way
    worker.receive(1)
    worker.intake.forget([first])
    again = worker.intake.take()
    assert again is not None
    assert again.message.receive_count == 2
    assert worker.intake.is_held(again)


def test_a_message_handed_out_again_while_it_runs_is_not_started_twice(queue: FifoQueue) -> None:
    """The new receipt handle is adopted by the run that is going on."""
    worker = Worker(queue)
    queue.send("a")
    worker.receive(1)
    running = worker.intake.take()
    assert running is not None
    old_handle = running.message.receipt_handle
    queue.now += LEASE + 1
    worker.receive(1)
    assert worker.intake.take() is None
    assert worker.intake.delivered(running.tag) is running
    assert running.message.receipt_handle != old_handle
    assert queue.holds(running.message.receipt_handle)


def test_a_batch_that_lapsed_while_it_was_looked_up_overtakes_nothing(queue: FifoQueue) -> None:
    """The head of its group was given back meanwhile: the one behind it comes again, and behind it."""
    worker = Worker(queue)
    for _ in range(2):
        queue.send("a")
    worker.receive(1)
    queue.now += LEASE + 1
    lapsed = worker.ask(2)
    queue.now += LEASE + 1
    assert worker.intake.take() is None, "the head has lapsed and goes back"
    again = worker.ask(2)
    worker.intake.hold(lapsed)
    worker.intake.hold(again)
    first = worker.intake.take()
    assert first is not None
    assert first.message_id == "m0"


def test_what_is_looked_up_for_longer_than_its_lease_changes_nothing(queue: FifoQueue) -> None:
    """The table was away: the message came again meanwhile and runs, under a handle that is good."""
    worker = Worker(queue)
    queue.send("a")
    late = worker.ask(1)
    queue.now += LEASE + 1
    worker.receive(1)
    running = worker.intake.take()
    assert running is not None
    worker.intake.hold(late)
    assert queue.holds(running.message.receipt_handle)
    assert running.startable()
    worker.beat(frozenset())
    queue.now += LEASE - 1
    worker.beat(frozenset())
    assert queue.receive(1, LEASE) == [], "nobody else gets it while it runs"


def _pass_some(worker: Worker, queue: FifoQueue, count: int) -> list[Lease]:
    """Send five of a group, and let the first ``count`` run well."""
    for _ in range(5):
        queue.send("a")
    worker.receive(10)
    passed = []
    for _ in range(count):
        taken = worker.intake.take()
        assert taken is not None
        worker.finish(taken.tag)
        worker.let_pass(taken)
        passed.append(taken)
    return passed


def test_the_next_of_a_group_starts_when_the_one_before_ran_well(queue: FifoQueue) -> None:
    """What ran stays held, in its lane, until its effects are recorded."""
    worker = Worker(queue)
    passed = _pass_some(worker, queue, 2)
    third = worker.intake.take()
    assert third is not None
    assert third.message_id == "m2"
    assert worker.intake.take() is None
    assert worker.intake.counts() | {"waiting": 2, "delivered": 1, "finished": 2} == worker.intake.counts()
    for lease in passed:
        worker.settle(lease)
    assert worker.intake.take() is None, "the third still runs"


def test_what_ran_behind_one_that_goes_back_goes_back_too(queue: FifoQueue) -> None:
    """It runs again, behind it: passed, running or waiting, in order; what was before it stays."""
    worker = Worker(queue)
    _first, second, third = _pass_some(worker, queue, 3)
    running = worker.intake.take()
    assert running is not None
    worker.give_back(second, 20)
    assert [(lease.message_id, delay) for lease, delay in worker.orders] == [("m2", 0), ("m4", 0), ("m1", 20)]
    assert third.phase is Phase.RETURNING
    assert running.void
    assert worker.intake.counts() | {"finished": 1, "delivered": 1} == worker.intake.counts()


def test_nothing_starts_behind_one_that_ran_and_was_lost(queue: FifoQueue) -> None:
    """Another worker may run it again, and the next one only after it."""
    worker = Worker(queue)
    (first,) = _pass_some(worker, queue, 1)
    first.deadline = queue.now
    assert worker.intake.take() is None
    assert [lease.message_id for lease, _ in worker.orders] == ["m1", "m2", "m3", "m4"]


def test_a_lost_connection_gives_back_what_did_not_start(queue: FifoQueue) -> None:
    """A running message stays held; a delivered one waits again, under another delivery tag."""
    worker = Worker(queue)
    for group in "ab":
        queue.send(group)
    worker.receive(2)
    runs, reserved = worker.intake.take(), worker.intake.take()
    assert runs is not None
    assert reserved is not None
    worker.intake.started(runs, queue.now + 100)
    old_tag = reserved.tag
    worker.intake.restore()
    assert worker.intake.delivered(runs.tag) is runs
    assert worker.intake.cut_all("another") == []
    assert worker.intake.take() is reserved
    assert worker.intake.finish(old_tag) is None
    worker.intake.restore()
    assert worker.intake.cut_all("q") == [reserved]


def test_a_deep_group_leaves_room_for_others(queue: FifoQueue) -> None:
    """Messages behind a lane's first one cannot start, so they use no slot."""
    worker = Worker(queue)
    worker.intake.slots = 2
    for _ in range(10):
        queue.send("deep")
    worker.receive(10)
    assert worker.intake.take() is not None
    assert _room(worker.intake) == 1


def test_no_more_are_delivered_than_slots(queue: FifoQueue) -> None:
    """Celery would hold them for its pool, while their leases run."""
    worker = Worker(queue)
    for group in "abc":
        queue.send(group)
    worker.receive(3)
    worker.intake.slots = 2  # the pool shrinks, and what is held stays
    first, second = worker.intake.take(), worker.intake.take()
    assert first is not None
    assert second is not None
    assert worker.intake.take() is None
    worker.finish(first.tag)
    assert worker.intake.take() is not None


def test_the_poll_of_an_empty_queue_leaves_room_for_another_queue(queue: FifoQueue) -> None:
    """A receive under way from one queue does not prevent one from another."""
    worker = Worker(queue)
    allowed = worker.intake.ask("idle", threading.Event())
    assert allowed is not None
    assert allowed.messages == SLOTS
    assert _room(worker.intake, "idle") == 0
    assert _room(worker.intake, "busy") == SLOTS


def test_an_idle_slot_is_worth_a_call(queue: FifoQueue) -> None:
    """A worker with many slots does not wait for several to be free before it asks for the next task."""
    worker = Worker(queue)
    worker.intake.slots = 40
    for number in range(40):
        queue.send(f"g{number}")
    for _ in range(4):
        worker.receive(10)
    leases = []
    while lease := worker.intake.take():
        leases.append(lease)
    assert len(leases) == 40
    worker.finish(leases[0].tag)
    assert _asked(worker.intake) == 1


def test_a_fast_worker_makes_full_calls(queue: FifoQueue) -> None:
    """While enough waits to keep the slots busy, no call is made for a few messages."""
    worker = Worker(queue)
    for number in range(95):
        queue.send(f"g{number}")
    with patch.object(Capacity, "rate", return_value=100 / RECEIVE_AHEAD):
        for _ in range(10):
            worker.receive(10)
        stopped = threading.Event()
        stopping = threading.Timer(0.1, stopped.set)
        stopping.start()
        assert worker.intake.ask("q", stopped) is None
        stopping.join()
        for _ in range(5):
            lease = worker.intake.take()
            assert lease is not None
            worker.finish(lease.tag)
        assert _asked(worker.intake) == 10


def _work_off(worker: Worker) -> int:
    """Receive once as the intake allows, run and delete all of it; return how many messages it asked for."""
    allowed = worker.intake.ask("q", threading.Event())
    assert allowed is not None
    worker.receive(allowed.messages)
    worker.intake.asked(allowed)
    while lease := worker.intake.take():
        worker.finish(lease.tag)
        worker.delete(lease)
        while worker.orders:
            worker.carry_out(0)
    return allowed.messages


def test_ten_of_one_group_are_asked_for_once_its_followers_are_seen(queue: FifoQueue) -> None:
    """SQS hands out ten of a group at once, and those behind the first one use no slot."""
    worker = Worker(queue)
    worker.intake.slots = 1
    for _ in range(60):
        queue.send("one")
    asked = [_work_off(worker) for _ in range(20)]
    assert asked[0] == 1, "nothing is known yet"
    assert 10 in asked
    assert not queue.messages


def test_no_more_is_asked_for_than_can_start_where_each_message_has_its_own_group(queue: FifoQueue) -> None:
    """The others of ten would wait behind busy slots, while other workers are idle."""
    worker = Worker(queue)
    for number in range(60):
        queue.send(f"g{number}")
    assert {_work_off(worker) for _ in range(20)} == {SLOTS}


def test_a_queue_that_has_no_followers_any_more_is_asked_for_few_after_one_receive(queue: FifoQueue) -> None:
    """One receive of ten heads is enough to learn it, and what cannot start soon goes back."""
    worker = Worker(queue)
    for _ in range(60):
        queue.send("one")
    while queue.messages:
        _work_off(worker)
    for number in range(30):
        queue.send(f"g{number}")
    assert _work_off(worker) == 10
    assert _work_off(worker) <= SLOTS + 1


def test_many_groups_with_one_message_each_are_not_taken_for_one_deep_one(queue: FifoQueue) -> None:
    """A thousand entities at work take turns: the next message of one is far behind those of the others."""
    worker = Worker(queue)
    worker.intake.slots = 1
    for _ in range(3):
        for number in range(20):
            queue.send(f"entity-{number}")
            assert _work_off(worker) == 1


def test_more_than_can_start_soon_goes_back(queue: FifoQueue) -> None:
    """When several polls bring more than the worker gets through soon, other workers get the rest."""
    worker = Worker(queue)
    for group in "abcde":
        queue.send(group)
    worker.receive(3)
    worker.receive(2)
    assert worker.intake.counts()["waiting"] == SLOTS
    assert [lease.message.group_id for lease, _ in worker.orders] == ["e", "d"]


def test_hour_long_tasks_leave_what_waits_to_others(queue: FifoQueue) -> None:
    """A worker whose slots are taken by long tasks asks for nothing."""
    worker = Worker(queue)
    for group in "abc":
        queue.send(group)
    worker.receive(3)
    while lease := worker.intake.take():
        worker.intake.started(lease, queue.now + 3600)
    queue.now += 600
    assert _room(worker.intake) == 0


def test_a_paused_worker_asks_for_nothing(queue: FifoQueue) -> None:
    """Its event loop is wedged: what it received again it would only hold again."""
    worker = Worker(queue)
    worker.intake.paused = True
    assert _room(worker.intake) == 0


def test_unsettled_results_pause_receiving(queue: FifoQueue) -> None:
    """While Kafka or DynamoDB are slow, finished results are bounded."""
    worker = Worker(queue)
    worker.intake.slots = UNSETTLED_LIMIT
    for number in range(UNSETTLED_LIMIT):
        queue.send(f"g{number}")
    worker.receive(UNSETTLED_LIMIT)
    leases = []
    while lease := worker.intake.take():
        leases.append(lease)
        worker.finish(lease.tag)
    assert _room(worker.intake) == 0
    worker.intake.forget([leases[0]])
    assert 0 < _room(worker.intake) <= HELD_LIMIT


def test_a_lease_that_lapsed_before_the_start_drops_its_lane(queue: FifoQueue) -> None:
    """Whoever has the head now may be running it: nothing behind it starts here, all of it goes back."""
    worker = Worker(queue)
    for group in "aab":
        queue.send(group)
    worker.receive(2)
    queue.now += LEASE - 1
    worker.receive(1)
    queue.now += 0.5
    taken = worker.intake.take()
    assert taken is not None
    assert taken.message.group_id == "b"
    assert [(lease.message.group_id, delay) for lease, delay in worker.orders] == [("a", 0), ("a", 0)]


def test_suspects_run_one_at_a_time(queue: FifoQueue) -> None:
    """Of messages that may be killing workers one runs at a time, beside all the others."""
    worker = Worker(queue)
    for group in "abc":
        queue.send(group)
    worker.receive(3)
    for lease in worker.intake._held.values():
        lease.suspect = lease.message.group_id != "c"
    first, second = worker.intake.take(), worker.intake.take()
    assert first is not None
    assert second is not None
    assert {first.message.group_id, second.message.group_id} == {"a", "c"}
    assert worker.intake.take() is None
    worker.finish(first.tag)
    third = worker.intake.take()
    assert third is not None
    assert third.message.group_id == "b"


def test_a_run_that_outlived_its_limit_is_named(queue: FifoQueue) -> None:
    """A run that nobody reports the end of does not hold its slot and its message for ever."""
    worker = Worker(queue)
    queue.send("a")
    worker.receive(1)
    lease = worker.intake.take()
    assert lease is not None
    worker.intake.started(lease, queue.now + 10)
    assert worker.intake.overdue() == []
    queue.now += 11
    assert worker.intake.overdue() == [lease]
    worker.finish(lease.tag)
    assert worker.intake.overdue() == []


def test_no_run_starts_that_sqs_would_let_go_of_before_its_end(queue: FifoQueue) -> None:
    """SQS holds a message for 12 hours from its receive, however often it is extended."""
    worker = Worker(queue)
    queue.send("a")
    worker.receive(1)
    lease = worker.intake.take()
    assert lease is not None
    received_at = queue.now
    queue.now += 3600
    lease.deadline = queue.now + LEASE
    assert lease.startable(10 * 3600)
    assert not lease.startable(11 * 3600)
    assert lease.last_end == received_at + LONGEST_HOLD
