"""Delivery for every answer of SQS: tasks arrive in the order of their group, and none is settled before."""

import json
import random
import threading
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.author.decorator import stage
from pipeline.author.registry import Registry
from pipeline.bridge.delivery import SEND_BATCH, SEND_THREADS, SqsDelivery
from pipeline.bridge.knownplans import KnownPlans
from pipeline.bridge.outbox import Outbox, entries_of
from pipeline.bridge.throttle import MAX_EVENTS, Throttle
from pipeline.bridge.translator import EventTasks, Rejection
from pipeline.errors import (
    MessageRefusedError,
    ServiceError,
    ServiceRefusedError,
    ServiceUnavailableError,
)
from pipeline.jobs import JobPlan, NewJob, Opened
from pipeline.kafka import Partition, ReceivedRecord
from pipeline.ledger import Ledger
from pipeline.patience import Patience
from pipeline.sqs import OutgoingMessage
from pipeline.wire import identity, taskmessage
from pipeline.wire.events import Event
from pipeline.wire.plans import plan_from
from tests.processes import wait_until

P, Q, R, LATER = (Partition("letters", number) for number in range(4))
NOW = datetime.now(UTC)


@stage(consumes="letters", ordered=True, registry=Registry())
def read(number: int) -> None: ...


READ: Any = read
PLAN = plan_from([READ.route], "letters")


def _data(messages: Sequence[OutgoingMessage]) -> list[str]:
    """The data of tasks: the offset of the event of each."""
    return [taskmessage.data_of(json.loads(message.body)["body"]) for message in messages]


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
        self.records = self
        #: The plans of jobs that were opened before.
        self.pinned: dict[str, JobPlan] = {}
        self.opened: list[str] = []
        #: the topics of jobs that begin on another topic than "letters"
        self.topics: dict[str, str] = {}
        #: Whether it answers; and the jobs whose opening waits for it, where not all do.
        self.answers = threading.Event()
        self.answers.set()
        self.slow: set[str] = set()
        self._failures = 3

    def open(self, jobs: Sequence[NewJob]) -> Opened:
        if not self.slow or self.slow.intersection(job.job_id for job in jobs):
            self.answers.wait()
        if self._failures:
            self._failures -= 1
            errors = [ServiceUnavailableError("throttled")] * len(jobs)
            return Opened(errors=errors, existing=frozenset())
        existing = frozenset(job.job_id for job in jobs if job.job_id in self.pinned)
        answers: list[ServiceError | None] = [
            MessageRefusedError("a number it cannot hold") if job.job_id == "refused" else None
            for job in jobs
        ]
        self.opened += [job.job_id for job, error in zip(jobs, answers, strict=True) if error is None]
        return Opened(errors=answers, existing=existing)

    def get_now(self, job_ids: Sequence[str]) -> dict[str, Any]:
        found = {job_id: self.pinned[job_id] for job_id in job_ids if job_id in self.pinned}
        return {
            job_id: SimpleNamespace(plan=plan, topic=self.topics.get(job_id, "letters"))
            for job_id, plan in found.items()
        }


class FakeRejects:
    """Remembers what was rejected."""

    def __init__(self) -> None:
        self.buried: list[Rejection] = []

    def bury(self, rejections: Sequence[Rejection]) -> None:
        self.buried += rejections

    def close(self) -> None: ...


class FakeProducer:
    """Is only closed."""

    def close(self, timeout: float) -> None: ...


class FakeDepths:
    """No queue is deep."""

    def start(self) -> None:
        pass

    def close(self) -> None:
        pass


class World:
    """A delivery to SQS around fakes."""

    def __init__(self, queue: FakeQueue) -> None:
        self.queue = queue
        self.store = FakeStore()
        self.rejects = FakeRejects()
        nothing: Any = None
        producer: Any = FakeProducer()
        store: Any = self.store
        ledger = Ledger(nothing, store, producer, Patience())
        plans = KnownPlans([READ.route])
        rejects: Any = self.rejects
        depths: Any = FakeDepths()
        queue_named: Any = lambda _: self.queue  # noqa: E731 - the type is what is wanted
        self.delivery = SqsDelivery(
            queue_named,
            Outbox(SEND_BATCH),
            ledger,
            rejects,
            Patience(),
            producer,
            plans,
            "tasks.fifo",
            depths,
        )
        self.delivery.tracker.assign([P, Q, R, LATER])
        self.delivery.start()

    def put(
        self,
        offset: int,
        group: str,
        job: NewJob | None = None,
        plan: JobPlan | None = PLAN,
        certain: bool = True,
        partition: Partition = P,
    ) -> None:
        ticket = self.delivery.tracker.take(partition, offset)
        assert ticket
        self.delivery.usage.add(1)
        record = ReceivedRecord(
            topic="letters", partition=0, offset=offset, timestamp_ms=1, key=None, value=b"", headers=()
        )
        event = Event(
            id=str(offset), source="test", type="letters", time=NOW, entity_id=group, data=b"%d" % offset
        )
        content = EventTasks(
            record=record,
            event=event,
            job_id="j",
            job=job,
            submitted_at=1.0,
            topic="letters",
            plan=plan,
            is_certain=certain,
            tasks=(),
        )
        if plan is not None:
            content = replace(content.under(plan, plan.consumers("letters")), is_certain=certain)
        for entry in entries_of(content, ticket, 1, "post", "tasks.fifo"):
            self.delivery.put(entry)

    def settled(self) -> int:
        """The offset that may be committed."""
        return self.delivery.tracker.committable().get(P, 0)


@pytest.fixture
def worlds(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[World]]:
    """Worlds to be closed; without pauses between tries."""
    monkeypatch.setattr("pipeline.patience.LONGEST_PAUSE", 0.001)
    made: list[World] = []
    yield made
    for world in made:
        world.store.answers.set()
        world.delivery.close()


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_each_group_survives_failures(worlds: list[World], seed: int) -> None:
    """A third of all entries fail, half of those after they were taken."""
    world = World(FakeQueue(seed, failing=0.33))
    worlds.append(world)
    for n in range(300):
        world.put(n, f"group-{n % 11}")
    wait_until(lambda: world.settled() == 300, "all settled")
    for group in range(11):
        taken = [m for m in world.queue.taken if m.group_id == f"group-{group}"]
        assert _data(taken) == [str(n) for n in range(group, 300, 11)]
    # An event is settled a moment before its memory is free.
    wait_until(lambda: world.delivery.usage.share() == 0, "all memory is free")
    assert world.delivery.failure is None


def test_a_job_is_open_before_its_task_is_sent(worlds: list[World]) -> None:
    """However often opening it fails first."""
    world = World(FakeQueue())
    worlds.append(world)
    job = NewJob(job_id="j", entity_id="ada", topic="letters", plan=JobPlan(stages={}), submitted_at=1)
    world.put(0, "a", job=job)
    wait_until(lambda: world.queue.taken, "sent")
    assert world.store.opened == ["j"]


def test_opening_jobs_does_not_keep_the_events_of_later_stages(worlds: list[World]) -> None:
    """All that wait for the table are first events, and what comes after one of them in its group."""
    world = World(FakeQueue())
    worlds.append(world)
    world.store.answers.clear()
    job = NewJob(job_id="j", entity_id="ada", topic="letters", plan=PLAN, submitted_at=1)
    for n in range(200):
        world.put(n, f"first-{n}", job=job)
    for n in range(200, 300):
        world.put(n, f"later-{n}")
    world.put(300, "first-0")
    wait_until(lambda: len(world.queue.taken) == 100, "the later ones are sent")
    assert {message.group_id for message in world.queue.taken} == {f"later-{n}" for n in range(200, 300)}
    assert world.settled() == 0
    world.store.answers.set()
    wait_until(lambda: world.settled() == 301, "all settled")
    assert _data([m for m in world.queue.taken if m.group_id == "first-0"]) == ["0", "300"]


class FakeConsumer:
    """Has any number of events of partitions that are not paused."""

    def __init__(self) -> None:
        self.paused: set[Partition] = set()

    def pause(self, partitions: Collection[Partition]) -> None:
        self.paused |= set(partitions)

    def resume(self, partitions: Collection[Partition]) -> None:
        self.paused -= set(partitions)


def test_a_table_that_opens_no_job_stops_only_the_partitions_that_begin_jobs(worlds: list[World]) -> None:
    """A bridge that reads four partitions, three of them with first events: the fourth flows on."""
    world = World(FakeQueue())
    worlds.append(world)
    world.store.answers.clear()
    tracker, consumer = world.delivery.tracker, FakeConsumer()
    throttle = Throttle(tuple, tracker, world.delivery.usage)
    taken = dict.fromkeys((P, Q, R, LATER), 0)
    job = NewJob(job_id="j", entity_id="ada", topic="letters", plan=PLAN, submitted_at=1)

    def step() -> None:
        """Poll as a bridge does, commit, and wait until the later events that were read are sent."""
        throttle.apply(consumer)  # type: ignore[arg-type]
        for partition in [] if throttle.full else taken.keys() - consumer.paused:
            for _ in range(100):
                taken[partition] += 1
                number = sum(taken.values())
                begun = None if partition == LATER else job
                world.put(number, f"entity-{number}", job=begun, partition=partition)
        wait_until(lambda: len(world.queue.taken) == taken[LATER], "the later events are sent")
        tracker.committed(tracker.committable())

    steps = MAX_EVENTS // 150
    for number in range(1, steps + 1):
        step()
        assert taken[LATER] == 100 * number, f"paused: {consumer.paused}, full: {throttle.full}"
    assert consumer.paused == {P, Q, R}
    assert world.store.opened == []
    world.store.answers.set()
    wait_until(lambda: len(world.queue.taken) == sum(taken.values()), "all are sent")
    wait_until(lambda: world.delivery.usage.opening() == (0.0, frozenset()), "none waits for its job")
    throttle.apply(consumer)  # type: ignore[arg-type]
    assert consumer.paused == set()


def test_an_event_whose_job_the_table_refuses_is_rejected_and_passed(worlds: list[World]) -> None:
    """The refusal is that event's: the bridge goes on, and what is behind it is sent."""
    world = World(FakeQueue())
    worlds.append(world)
    for n in range(3):
        job_id = "refused" if n == 1 else "j"
        job = NewJob(job_id=job_id, entity_id="ada", topic="letters", plan=JobPlan(stages={}), submitted_at=1)
        world.put(n, "a", job=job)
    wait_until(lambda: world.settled() == 3, "all settled")
    assert _data(world.queue.taken) == ["0", "2"]
    (rejection,) = world.rejects.buried
    assert (rejection.error, rejection.stage) == ("MessageRefusedError", "read")
    assert world.delivery.failure is None


@pytest.mark.parametrize("together", [True, False], ids=["in one batch", "later"])
def test_an_event_that_began_its_job_on_another_topic_begins_one_of_its_own(
    worlds: list[World], together: bool
) -> None:
    """One job would have the first topic's plan, and end without the second stage."""
    world = World(FakeQueue())
    worlds.append(world)
    world.store.pinned, world.store.topics = {"j": JobPlan(stages={"other": ("other",)})}, {"j": "words"}
    if together:
        world.store.pinned = {}
    own = identity.further_job_id("j", "letters")
    job = NewJob(job_id="j", entity_id="ada", topic="letters", plan=PLAN, submitted_at=1)
    world.put(0, "a", job=job, certain=False)
    wait_until(lambda: world.settled() == 1, "settled")
    sent = [json.loads(message.body)["headers"]["pipeline"]["job_id"] for message in world.queue.taken]
    assert sent == (["j"] if together else [own])
    assert world.store.opened == (["j"] if together else ["j", own])


def test_a_job_of_its_own_is_opened_without_keeping_later_events(worlds: list[World]) -> None:
    """More events than threads that send: none of those waits for the table."""
    world = World(FakeQueue())
    worlds.append(world)
    own = identity.further_job_id("j", "letters")
    world.store.pinned, world.store.topics = {"j": PLAN}, {"j": "words"}
    world.store.slow = {own}
    world.store.answers.clear()
    job = NewJob(job_id="j", entity_id="ada", topic="letters", plan=PLAN, submitted_at=1)
    first, later = SEND_THREADS * SEND_BATCH, SEND_THREADS
    for n in range(first):
        world.put(n, f"first-{n}", job=job, certain=False)
    wait_until(lambda: "j" in world.store.opened, "the job of the other topic is found")
    for n in range(later):
        world.put(first + n, f"later-{n}")
        wait_until(lambda n=n: len(world.queue.taken) == n + 1, "a later one is sent")  # type: ignore[misc]
    world.store.answers.set()
    wait_until(lambda: world.settled() == first + later, "all settled")
    assert world.delivery.usage.opening() == (0.0, frozenset())


def test_what_sqs_refuses_is_rejected_and_passed(worlds: list[World]) -> None:
    """Its group goes on behind it; its offset is settled when it is buried."""
    queue = FakeQueue()
    queue.refused = {identity.task_id("test", "1", "read", None)}
    world = World(queue)
    worlds.append(world)
    for n in range(3):
        world.put(n, "a")
    wait_until(lambda: world.settled() == 3, "all settled")
    assert _data(queue.taken) == ["0", "2"]
    (rejection,) = world.rejects.buried
    assert (rejection.error, rejection.stage) == ("MessageRefusedError", "read")


def test_a_queue_that_refuses_all_ends_it(worlds: list[World]) -> None:
    """Nothing is buried and nothing settled: it is the queue's fault, not the events'."""
    queue = FakeQueue()
    queue.denied = True
    world = World(queue)
    worlds.append(world)
    world.put(0, "a")
    wait_until(lambda: world.delivery.failure, "it ended")
    assert isinstance(world.delivery.failure, ServiceRefusedError)
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
    world.delivery.tracker.revoke([P])
    queue.failing = 0.0
    wait_until(lambda: world.delivery.usage.share() == 0, "all let go")
    assert _data(queue.taken) == ["0"]


def test_first_events_that_are_lost_wait_for_no_job(worlds: list[World]) -> None:
    """Else their partition would be paused for good when it comes back."""
    world = World(FakeQueue())
    worlds.append(world)
    world.store.answers.clear()
    job = NewJob(job_id="j", entity_id="ada", topic="letters", plan=PLAN, submitted_at=1)
    for n in range(300):
        world.put(n, f"first-{n}", job=job)
    assert world.delivery.usage.opening()[1] == {P}
    world.delivery.tracker.revoke([P])
    world.store.answers.set()
    wait_until(lambda: world.delivery.usage.held() == (0, 0), "all let go")
    assert world.delivery.usage.opening() == (0.0, frozenset())


COUNT = replace(READ.route, name="count")
BOTH = plan_from([READ.route, COUNT], "letters")
ONLY_COUNT = plan_from([COUNT], "letters")


def _sent(world: World) -> list[tuple[str, str, str]]:
    """The data, stage and plan of each task that SQS took, in order."""
    bodies = [json.loads(message.body) for message in world.queue.taken]
    return [
        (taskmessage.data_of(body["body"]), body["headers"]["task"], body["headers"]["pipeline"]["plan"])
        for body in bodies
    ]


def test_an_event_gets_the_tasks_of_the_plan_that_its_job_pinned(worlds: list[World]) -> None:
    """A job that was opened before, by another version, keeps its plan: no task too few, none too many."""
    for pinned in (BOTH, ONLY_COUNT):
        world = World(FakeQueue())
        worlds.append(world)
        world.store.pinned["j"] = pinned
        job = NewJob(job_id="j", entity_id="ada", topic="letters", plan=PLAN, submitted_at=1)
        world.put(0, "a", job=job, certain=False)
        wait_until(lambda world=world: world.settled() == 1, "settled")  # type: ignore[misc]
        assert sorted(stage for _, stage, _ in _sent(world)) == sorted(pinned.stages)
        assert {plan for _, _, plan in _sent(world)} == {pinned.id}


def test_an_event_without_a_plan_gets_its_jobs_and_keeps_its_entitys_order(worlds: list[World]) -> None:
    """The next events of its entity wait until the record was read."""
    world = World(FakeQueue())
    worlds.append(world)
    world.store.pinned["j"] = PLAN
    for n in range(30):
        world.put(n, "a", plan=None if n % 3 == 0 else PLAN, certain=n % 3 > 0)
    wait_until(lambda: world.settled() == 30, "settled")
    assert [data for data, _, _ in _sent(world)] == [str(n) for n in range(30)]
    assert {plan for _, _, plan in _sent(world)} == {PLAN.id}


def test_an_event_whose_job_has_no_stage_for_it_is_passed_over(worlds: list[World]) -> None:
    """It is settled, and nothing is sent."""
    world = World(FakeQueue())
    worlds.append(world)
    world.store.pinned["j"] = plan_from([replace(READ.route, consumes="elsewhere")], "elsewhere")
    world.put(0, "a", plan=None, certain=False)
    wait_until(lambda: world.settled() == 1, "settled")
    assert _sent(world) == []
