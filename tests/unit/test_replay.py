"""A replay's ids, jobs and pace, without services; ``tests/integration/test_replay.py`` has the rest."""

import json
import time
from collections.abc import Sequence
from datetime import UTC, datetime

import click
import pytest

from pipeline.author.decorator import stage
from pipeline.author.registry import Registry
from pipeline.bridge.queuedepths import MAX_DEPTH
from pipeline.bridge.replay import (
    Replay,
    Replayed,
    ReplayId,
    Window,
)
from pipeline.cli.options import Moment
from pipeline.errors import ServiceError, ServiceRefusedError
from pipeline.jobs import NewJob, Opened
from pipeline.kafka import ReceivedRecord
from pipeline.sqs import OutgoingMessage, QueueDepth
from pipeline.wire import events, identity
from pipeline.wire.events import Event, Redrive
from tests import builders

AGAIN = ReplayId.read("1795501794-9f3a12bc")


class FakeQueue:
    """Takes what is sent, has the depths it is told, and refuses when told."""

    name = "tasks.fifo"

    def __init__(self) -> None:
        self.sent: list[OutgoingMessage] = []
        self.depths: list[int] = []
        self.denied = False

    def send(
        self, messages: Sequence[OutgoingMessage], *, one_per_group: bool = False
    ) -> list[ServiceError | None]:
        if self.denied:
            return [ServiceRefusedError("denied")] * len(messages)
        self.sent += messages
        return [None] * len(messages)

    def depth(self) -> QueueDepth:
        return QueueDepth(available=self.depths.pop() if self.depths else 0, in_flight=0, delayed=0)


class FakeStore:
    """Remembers the jobs that were opened."""

    def __init__(self) -> None:
        self.records = self
        self.opened: list[NewJob] = []

    def open(self, jobs: Sequence[NewJob]) -> Opened:
        self.opened += jobs
        return Opened(errors=[None] * len(jobs), existing=frozenset())


class World:
    """A replay of ``read`` around fakes, whose topic holds what ``messages`` says."""

    def __init__(self, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
        self.registry = registry
        self.queue = FakeQueue()
        self.store = FakeStore()
        self.messages: list[ReceivedRecord] = []
        monkeypatch.setattr("pipeline.bridge.replay.sqs_client", lambda _: None)
        monkeypatch.setattr("pipeline.bridge.replay.SqsQueue", lambda *_: self.queue)
        monkeypatch.setattr("pipeline.bridge.replay.scan", lambda *_, **__: iter(self.messages))
        monkeypatch.setattr("pipeline.bridge.replay.DEPTH_PAUSE", 0.0)
        self.settings = builders.settings(service_name="post")

    def put(
        self, number: int, headers: tuple[tuple[str, bytes], ...] = (), job_id: str | None = None
    ) -> None:
        event = Event(
            id=f"e-{number}",
            source="/post/before" if job_id else "/tests",
            type="letters",
            time=datetime.now(UTC),
            entity_id=f"entity-{number % 3}",
            data=json.dumps(number).encode(),
            job_id=job_id,
            stage="before" if job_id else None,
        )
        key, value, own = events.encode(event)
        self.messages.append(
            ReceivedRecord(
                topic="letters",
                partition=0,
                offset=number,
                timestamp_ms=int(time.time() * 1000),
                key=key,
                value=value,
                headers=own + headers,
            )
        )

    def run(self, again: ReplayId | None) -> list[Replayed]:
        window = Window(begin=time.time() - 3600, end=time.time() + 60)
        replay = Replay(
            self.settings,
            self.registry,
            self.store,  # type: ignore[arg-type]
            self.registry.by_name["read"],
            again,
        )
        try:
            return list(replay.run(window, dry=False))
        finally:
            replay.close()


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    registry = Registry()

    @stage(consumes="letters", emits="words", ordered=True, registry=registry)
    def read(letter: int) -> str:
        return str(letter)

    @stage(consumes="letters", registry=registry)
    def archive(letter: int) -> None: ...

    @stage(consumes="words", registry=registry)
    def count(word: str) -> None: ...

    return World(registry, monkeypatch)


def test_the_order_of_each_entity_is_kept_over_chunks(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several threads send, and still one entity's tasks leave one after the other."""
    monkeypatch.setattr("pipeline.bridge.replay.CHUNK", 7)
    for number in range(60):
        world.put(number)
    assert {replayed.outcome for replayed in world.run(None)} == {"sent"}
    for entity in range(3):
        sent = [m.body for m in world.queue.sent if m.group_id == f"entity-{entity}"]
        numbers = [json.loads(json.loads(body)["body"])[0][0] for body in sent]
        assert numbers == list(range(entity, 60, 3))


def test_only_a_first_event_opens_its_job(world: World) -> None:
    """As in the bridge: an event from another stage belongs to a job that is there."""
    world.put(1)
    world.put(2, job_id="job-2")
    world.run(None)
    assert [job.job_id for job in world.store.opened] == [identity.job_id("/tests", "e-1")]


def test_again_every_job_is_a_new_one_that_begins_here(world: World) -> None:
    """Its plan has this stage and those below, not others on the topic; nothing is taken for a redrive."""
    redrive = Redrive(
        generation=3, topic="letters", partition=0, offset=9, timestamp_ms=1, digest="of another"
    )
    world.put(1, headers=(redrive.header(),), job_id="job-1")
    (replayed,) = world.run(AGAIN)
    (job,) = world.store.opened
    assert (replayed.found.job_id, job.submitted_at) == (job.job_id, AGAIN.began_at)
    assert job.job_id == identity.replayed_job_id(AGAIN.text, "job-1")
    assert job.plan.stages == {"read": ("count",), "count": ("count",)}
    assert replayed.found.event
    assert job.event == (replayed.found.event.source, replayed.found.event.id)
    (task,) = world.queue.sent
    assert task.attributes == {}
    assert task.deduplication_id != identity.task_id("/tests", "e-1", "read", None)


def test_the_same_replay_makes_the_same_ids_and_another_others(world: World) -> None:
    """The property that ``--resume`` relies on."""
    world.put(1)
    for again in (AGAIN, AGAIN, ReplayId.read("1795501794-00000000")):
        world.run(again)
    first, same, other = (message.deduplication_id for message in world.queue.sent)
    assert first == same != other


def test_a_queue_that_is_deep_is_waited_for(world: World) -> None:
    """Nothing is sent while it holds too much."""
    world.queue.depths = [MAX_DEPTH - 1, MAX_DEPTH, MAX_DEPTH + 5]
    world.put(1)
    world.run(None)
    assert world.queue.depths == []
    assert len(world.queue.sent) == 1


def test_a_queue_that_takes_nothing_ends_it(world: World) -> None:
    """An error instead of a list of refusals."""
    world.queue.denied = True
    world.put(1)
    with pytest.raises(ServiceRefusedError, match="denied"):
        world.run(None)


def test_a_new_id_can_be_read_back() -> None:
    """With the second in which it began."""
    before = int(time.time())
    made = ReplayId.new()
    assert ReplayId.read(made.text) == made
    assert before <= made.began_at <= time.time()


@pytest.mark.parametrize(
    "text", ["", "x", "1795501794", "1795501794-9F3A12BC", "-9f3a12bc", "1795501794-9f3a12bc "]
)
def test_what_is_no_id_is_refused(text: str) -> None:
    """A typing error must not become a new replay."""
    with pytest.raises(ValueError, match="not the id of a replay"):
        ReplayId.read(text)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-11-24T07:30", datetime(2026, 11, 24, 7, 30, tzinfo=UTC)),
        ("2026-11-24", datetime(2026, 11, 24, tzinfo=UTC)),
        ("2026-11-24 07:30:01.5Z", datetime(2026, 11, 24, 7, 30, 1, 500_000, tzinfo=UTC)),
        ("2026-11-24T08:30+01:00", datetime(2026, 11, 24, 7, 30, tzinfo=UTC)),
    ],
)
def test_moments_are_read(text: str, moment: datetime) -> None:
    """Without a zone they are UTC, whatever the machine's is."""
    assert Moment().convert(text, None, None) == moment.timestamp()


def test_so_long_ago_is_read() -> None:
    """A number and a unit, before now."""
    before = time.time()
    assert before <= Moment().convert("90m", None, None) + 5400 <= time.time()


@pytest.mark.parametrize("text", ["", "ago", "2h ago", "2 hours", "24.11.2026", "2026-13-01", "now"])
def test_what_is_no_moment_is_refused(text: str) -> None:
    """With the ways to write one."""
    with pytest.raises(click.BadParameter, match="Write"):
        Moment().convert(text, None, None)
