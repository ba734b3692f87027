"""Consumers in the bridge: a record becomes tasks, a rejection, or is passed over, and bounds hold."""

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import Event, Record, consumer, stage
from pipeline.author.registry import Registry
from pipeline.bridge import consuming as consuming_module
from pipeline.bridge.backlog import Backlog
from pipeline.bridge.consuming import Consuming, fed_by
from pipeline.bridge.knownplans import KnownPlans
from pipeline.bridge.offsets import OffsetTracker
from pipeline.bridge.pulse import STUCK_AFTER, Pulse
from pipeline.bridge.rejects import Rejects
from pipeline.bridge.throttle import FULL_AT, MAX_EVENTS, BufferUsage
from pipeline.bridge.translator import EventTasks, Rejection, Translator
from pipeline.deadletters.letter import DeadLetter
from pipeline.deadletters.reading import read_event
from pipeline.deadletters.remaking import Remaking
from pipeline.errors import InvalidEventError
from pipeline.jobs import JobStore
from pipeline.jobs.table import Table
from pipeline.kafka import OutgoingRecord, Partition, ReceivedRecord
from pipeline.ledger import Ledger
from pipeline.patience import Patience
from pipeline.telemetry import metrics
from pipeline.wire import identity
from pipeline.wire.events import redrive_of
from pipeline.wire.taskmessage import data_of
from tests import builders
from tests.fakes.dynamodb import FakeDynamoDB
from tests.loglines import log_lines
from tests.processes import wait_until

NOW = 1_800_000_000.0
DAY = 86_400.0
SETTINGS = builders.settings(
    service_name="shop", topic_prefix="my-", topics={"RENAMED": "their.topic"}, kafka_consumer_group="shop"
)


class BrokenError(Exception):
    """Cannot even be shown."""

    def __str__(self) -> str:
        raise ValueError


def raising(error: BaseException) -> Callable[[Record[int]], int]:
    """Return a consumer's function that raises."""

    def fails(record: Record[int]) -> int:
        raise error

    return fails


def numbers(record: Record[list[int]]) -> list[int]:
    return record.data


def positive(record: Record[list[int]]) -> int | None:
    return sum(record.data) if sum(record.data) > 0 else None


def keyed(record: Record[list[int]]) -> list[Event[int]]:
    return [Event(number, entity=f"e-{number}") for number in record.data]


class World:
    """A service with some consumers of the topic "theirs"."""

    def __init__(self, *functions: Callable[..., Any], topic: str = "theirs", **options: Any) -> None:
        self.registry = Registry()

        @stage(consumes="amounts", ordered=True, registry=self.registry)
        def book(amount: int) -> None: ...

        @stage(consumes="amounts", queue="slow.fifo", registry=self.registry)
        def audit(amount: int) -> None: ...

        for function in functions:
            consumer(topic, emits="amounts", registry=self.registry, **options)(function)
        self.registry.check()
        self.plans = KnownPlans(self.registry.routes)
        self.consuming = Consuming(SETTINGS, self.registry.consumers.values())
        self.translator = Translator(
            SETTINGS, self.plans, self.registry.consumed_topics, self.consuming, lambda: NOW
        )

    def tasks(self, message: ReceivedRecord) -> list[EventTasks]:
        made = self.translator.translate(message)
        assert all(isinstance(each, EventTasks) for each in made), made
        return [each for each in made if isinstance(each, EventTasks)]

    def rejection(self, message: ReceivedRecord) -> Rejection:
        (made,) = self.translator.translate(message)
        assert isinstance(made, Rejection)
        return made


def record(value: bytes | None, topic: str = "theirs", offset: int = 7, **changes: Any) -> ReceivedRecord:
    plain = ReceivedRecord(
        topic=topic,
        partition=2,
        offset=offset,
        timestamp_ms=int((NOW - 1) * 1000),
        key=b"ada",
        value=value,
        headers=(),
    )
    return replace(plain, **changes)


def count(counter: Any, label: str) -> float:
    """Return what a counter has counted."""
    value: float = counter.labels(label)._value.get()
    return value


# ─── translation ───


def test_a_record_becomes_tasks_of_the_stages_of_what_its_consumer_emits() -> None:
    """In their queues and groups, in a job that begins on that topic, and at the record's place."""
    (made,) = World(positive).tasks(record(b"[1, 2]"))
    (book, first), (audit, second) = made.tasks
    assert (book.name, audit.name, second.queue) == ("book", "audit", "slow.fifo")
    assert (first.group_id, data_of(first.body)) == ("ada", "3")
    assert made.job is not None
    assert (made.job.topic, set(made.job.plan.stages)) == ("amounts", {"book", "audit"})
    assert made.job.event == (made.event.source, made.event.id)
    assert (made.topic, made.consumer) == ("amounts", "positive")
    header = first.headers["pipeline"]
    assert (header["topic"], header["partition"], header["offset"]) == ("theirs", 2, 7)


def test_a_record_becomes_several_jobs_or_none() -> None:
    """Each item is a job of its own; None is counted."""
    world = World(keyed)
    made = world.tasks(record(b"[3, 3, 4]"))
    assert [each.event.entity_id for each in made] == ["e-3", "e-3", "e-4"]
    assert len({each.job_id for each in made}) == 3
    before = count(metrics.RECORDS_PASSED_OVER, "positive")
    assert World(positive).tasks(record(b"[-1]")) == []
    assert count(metrics.RECORDS_PASSED_OVER, "positive") == before + 1


@settings(max_examples=20)
@given(st.lists(st.integers(0, 3), max_size=6), st.integers(0, 2**40))
def test_the_same_record_makes_the_same_jobs_and_tasks(amounts: list[int], offset: int) -> None:
    """Whenever and by whatever bridge it is read, with all its consumers."""
    message = record(str(amounts).encode(), offset=offset)
    first, again = (World(keyed, numbers, positive).tasks(message) for _ in range(2))
    assert first == again
    ids = [task.deduplication_id for each in first for _, task in each.tasks]
    assert len(ids) == len(set(ids))


def test_topics_of_others_have_their_own_names() -> None:
    """The prefix is for the service's topics; a variable renames a topic of others, too."""
    world = World(positive, topic="renamed")
    assert world.translator.topics == ("my-amounts", "their.topic")
    assert fed_by(SETTINGS, world.registry.consumers.values()) == {"their.topic": {"amounts"}}
    assert len(world.tasks(record(b"[1]", topic="their.topic"))) == 1


def test_a_tombstone_is_for_consumers_that_ask_for_it() -> None:
    """Its data is None then; an event that a consumer makes of it is none itself."""

    def gone(record: Record[list[int] | None]) -> int | None:
        return 0 if record.data is None else None

    before = count(metrics.TOMBSTONES, "theirs")
    assert World(positive).tasks(record(None)) == []
    assert count(metrics.TOMBSTONES, "theirs") == before + 1
    (made,) = World(gone, tombstones=True).tasks(record(None))
    assert [data_of(task.body) for _, task in made.tasks] == ["0", "0"]
    assert World(gone, tombstones=True).tasks(record(b"[1]")) == []


def test_a_job_begins_although_another_version_is_current() -> None:
    """With this bridge's own plan where the current deployment has no stage on the topic."""
    world = World(positive)
    world.plans.follow([replace(route, consumes="sums") for route in world.registry.routes], [])
    (made,) = world.tasks(record(b"[1]"))
    assert [route.name for route, _ in made.tasks] == ["book", "audit"]
    assert made.job is not None
    assert set(made.job.plan.stages) == {"book", "audit"}


# ─── rejections ───


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("no customer"), "consumer fails: no customer"),
        (SystemExit(3), "consumer fails: 3"),
        (RecursionError("too deep"), "consumer fails: too deep"),
        (GeneratorExit(), "consumer fails: "),
        (BrokenError(), "consumer fails: its __str__ raised ValueError"),
    ],
)
def test_what_a_consumer_raises_is_a_rejection(error: BaseException, reason: str) -> None:
    """Whatever it is: with the consumer's name, the reason and the traceback; no job is opened."""
    rejected = World(raising(error)).rejection(record(b"1"))
    assert rejected.message == reason
    assert rejected.error.endswith(type(error).__name__)
    assert (rejected.consumer, rejected.job, rejected.job_id) == ("fails", None, None)
    assert "raise error" in rejected.traceback
    assert rejected.record.value == b"1"


def test_an_interrupt_from_the_keyboard_ends_the_bridge() -> None:
    """It is for the process, not for the record."""
    with pytest.raises(KeyboardInterrupt):
        World(raising(KeyboardInterrupt())).translator.translate(record(b"1"))


@pytest.mark.parametrize("value", [b"no json", b'{"a": 1}', b'["a"]', b"[" * 500 + b"]" * 500])
def test_a_value_that_is_not_of_the_annotation_is_rejected(value: bytes) -> None:
    """Before the function runs."""
    assert World(positive).rejection(record(value)).record.value == value


def test_a_rejection_of_one_item_keeps_no_other_back_and_loses_none() -> None:
    """All events of a record or none, for each consumer."""

    def some(record: Record[list[int]]) -> list[int]:
        return [*record.data, "text"]  # type: ignore[list-item]

    made = World(some, numbers).translator.translate(record(b"[1, 2]"))
    assert [type(each) for each in made] == [Rejection, EventTasks, EventTasks]
    assert isinstance(made[0], Rejection)
    assert made[0].message.startswith("consumer some: ")


def test_an_old_record_is_rejected() -> None:
    """Its jobs' records would be gone."""
    old = record(b"[1]", timestamp_ms=int((NOW - 50 * DAY) * 1000))
    assert "days old" in World(positive).rejection(old).message


# ─── bounds ───


def test_a_record_is_settled_with_the_last_of_its_events() -> None:
    """Its offset is committed only then."""
    tracker, partition = OffsetTracker(), Partition("theirs", 0)
    tracker.assign([partition])
    ticket, next_one = (tracker.take(partition, offset) for offset in (4, 5))
    assert ticket
    assert next_one
    tracker.divide(ticket, 3)
    tracker.divide(next_one, 1)
    tracker.settle(next_one)
    for _ in range(2):
        tracker.settle(ticket)
        assert tracker.committable() == {}
    tracker.settle(ticket)
    assert tracker.committable() == {partition: 6}


def test_a_poll_is_not_taken_beyond_the_limit() -> None:
    """Records that become many events each would fill the memory."""
    usage = BufferUsage()
    for _ in range(FULL_AT * MAX_EVENTS - 1):
        usage.add(1)
    assert not usage.is_full()
    usage.add(1)
    assert usage.is_full()
    usage.remove(1)
    usage.add(2**28)
    assert usage.is_full()


def test_a_backlog_keeps_order_and_ends() -> None:
    """An end counts once all before it is taken; partitions that go are forgotten."""
    backlog, other = Backlog(), Partition("theirs", 3)
    first, second = record(b"1"), record(b"2", offset=8)
    third = record(b"3", partition=3)
    backlog.add([first, third], {Partition("theirs", 2): 9})
    backlog.add([second], {other: 8})
    assert next(backlog.take()) == first
    assert (len(backlog), backlog.take_ends()) == (2, {})
    backlog.drop([other])
    assert backlog.take_of(Partition("theirs", 2)) == [second]
    assert len(backlog) == 0
    assert backlog.take_ends() == {Partition("theirs", 2): 9}
    assert backlog.take_ends() == {}


# ─── time ───


def test_a_slow_run_is_named() -> None:
    """In the log with its place, and in the metric; its time is measured."""
    moments = iter([0.0, 1.5])
    world = World(positive)
    world.consuming._clock = lambda: next(moments)
    before = count(metrics.CONSUMER_SLOW, "positive")
    with log_lines(consuming_module) as lines:
        world.tasks(record(b"[1]"))
    (line,) = [each for each in lines if each["event"] == "consumer.slow"]
    assert (line["consumer"], line["topic"], line["partition"], line["offset"]) == (
        "positive",
        "theirs",
        2,
        7,
    )
    assert line["seconds"] == 1.5
    assert count(metrics.CONSUMER_SLOW, "positive") == before + 1


def test_a_run_that_does_not_end_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the watch's log line and by the health endpoint, with the record."""
    monkeypatch.setattr(consuming_module, "STUCK_EVERY", 0.01)
    entered, leave = threading.Event(), threading.Event()

    def hangs(record: Record[int]) -> int:
        entered.set()
        leave.wait(60)
        return 1

    world = World(hangs)
    now = [0.0]
    pulse = Pulse(lambda: now[0])
    pulse.held_up = world.consuming.running
    pulse.beat(0)
    world.consuming.start()
    thread = threading.Thread(target=world.tasks, args=(record(b"1"),))
    with log_lines(consuming_module) as lines:
        thread.start()
        try:
            assert entered.wait(60)
            wait_until(lambda: any(each["event"] == "consumer.stuck" for each in lines), "a line")
            now[0] = STUCK_AFTER + 1
            assert "consumer hangs has run for" in (pulse.stuck() or "")
            assert "on theirs[2] at offset 7" in (pulse.stuck() or "")
        finally:
            leave.set()
            thread.join(60)
            world.consuming.close()
    assert world.consuming.running() is None


# ─── dead letters and redrive ───


class FakeProducer:
    """Takes everything."""

    def __init__(self) -> None:
        self.taken: list[OutgoingRecord] = []

    def emit(self, records: Any, timeout: float) -> list[None]:
        self.taken += records
        return [None] * len(records)


def buried(world: World, message: ReceivedRecord, rejection: Rejection) -> DeadLetter:
    """Return the dead letter of a rejection, as it is read from the DLQ topic."""
    wire, producer = FakeDynamoDB(), FakeProducer()
    store = JobStore(SETTINGS, table=Table("jobs", lambda: wire))  # type: ignore[arg-type, return-value]
    ledger = Ledger(SETTINGS, store, producer, Patience())  # type: ignore[arg-type]
    rejects = Rejects(SETTINGS, world.plans, ledger, world.consuming.topics)
    rejects.bury([rejection])
    letter = next(each for each in producer.taken if each.topic == "my-shop-dlq")
    return read_event(
        SETTINGS, replace(message, topic=letter.topic, value=letter.value, headers=letter.headers)
    )


def test_a_dead_letter_keeps_the_record_and_names_the_consumer() -> None:
    """It names no job, as the record began none."""
    world = World(raising(ValueError("no customer")))
    message = record(b"1", headers=(("origin", b"erp"),))
    letter = buried(world, message, world.rejection(message))
    assert (letter.source, letter.data, letter.job_id) == ("theirs", "1", None)
    assert letter.reason == "consumer fails: no customer"
    assert letter.headers == {"origin": "erp"}


def test_a_redrive_makes_the_events_that_the_bridge_makes() -> None:
    """Written to the service's own topic, they are the same jobs and tasks there."""
    broken = World(raising(ValueError("a defect")))
    message = record(b"[1, 2]")
    letter = buried(broken, message, broken.rejection(message))
    mended = World(keyed)
    remaking = Remaking(SETTINGS, mended.registry)
    assert remaking.emits("theirs") == ("amounts",)
    assert remaking.emits("my-amounts") == ()
    written = [remaking.outgoing(letter, event) for event in remaking.events(letter)]
    straight = mended.tasks(message)
    again = [
        made
        for at, each in enumerate(written)
        for made in mended.tasks(
            record(each.value, topic=each.topic, offset=at, key=each.key, headers=each.headers)
        )
    ]
    assert [each.topic for each in written] == ["my-amounts", "my-amounts"]
    assert [each.job_id for each in again] == [each.job_id for each in straight]
    assert [task.deduplication_id for each in again for _, task in each.tasks] == [
        task.deduplication_id for each in straight for _, task in each.tasks
    ]
    redrive = redrive_of(written[0].headers, "my-amounts", written[0].key, written[0].value)
    assert redrive is not None
    assert (redrive.generation, redrive.topic, redrive.offset) == (1, "theirs", 7)


def test_an_event_that_became_no_task_is_redriven_alone() -> None:
    """Its dead letter names its job; the record's other events are tasks already."""
    world = World(keyed)
    message = record(b"[1, 2]")
    _, second = world.tasks(message)
    letter = buried(world, message, second.reject("book", "MessageRefusedError", "too large"))
    assert (letter.job_id, letter.stage) == (second.job_id, "book")
    (event,) = Remaking(SETTINGS, world.registry).events(letter)
    assert event.id == second.event.id
    changed = World(numbers)
    with pytest.raises(InvalidEventError, match="no event any more"):
        Remaking(SETTINGS, changed.registry).events(letter)


def test_a_record_that_is_still_refused_stays_a_dead_letter() -> None:
    """The redrive says why; one that is passed over by now has no events."""
    world = World(raising(ValueError("a defect")))
    message = record(b"[-1]")
    letter = buried(world, message, world.rejection(record(b"1")))
    with pytest.raises(InvalidEventError, match=r"consumer fails: .*ValueError: a defect"):
        Remaking(SETTINGS, world.registry).events(letter)
    passing = buried(world, message, replace(world.rejection(record(b"1")), record=message))
    assert Remaking(SETTINGS, World(positive).registry).events(passing) == []


def test_ids_of_consumed_events_are_pinned() -> None:
    """A change would run what waits in a queue during a deployment again."""
    assert identity.consumed_event_id("kafka:theirs", "e-1", 0) == "b660f969-43e3-50c8-a913-f50bd653d6af"
