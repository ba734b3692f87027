"""A bridge without SQS runs the stages itself: each event once to its end, in order, whatever is killed."""

import contextlib
import json
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from pydantic import BaseModel

from pipeline.cli import main
from pipeline.jobs import Job, JobState
from pipeline.kafka import EventProducer, OutgoingRecord, Partition
from pipeline.services.environment import Services
from pipeline.wire import events, identity
from pipeline.wire.events import Event
from tests.conftest import MakeEnvironment
from tests.integration.shop import Shop, open_shop
from tests.integration.workshop import Batch, Order
from tests.kafkagroups import lag, members
from tests.processes import PATIENCE

Bridge = subprocess.Popen[bytes]

#: Printed by a bridge that begins nothing more.
HOLDS = "the run queue holds"

#: A bridge whose queues are seen empty soon, so that a test of a switch need not wait a minute.
BRIDGE = f"""
import sys
from celery.__main__ import main
from pipeline.inline import queuedrain
from pipeline.inline.runqueue import RunQueue

queuedrain.CHECK_EVERY, queuedrain.EMPTY_FOR = 0.2, 1.0
hold = RunQueue.hold
RunQueue.hold = lambda queue: (hold(queue), print("{HOLDS}", file=sys.stderr))
sys.argv = ["celery", "-A", "pipeline", "bridge", "-c", "2"]
main()
"""


@dataclass
class Mill:
    """A service whose bridges run its stages."""

    shop: Shop
    producer: EventProducer

    def start(self, **variables: str) -> Bridge:
        """Start a bridge; by default one that runs the stages itself."""
        environment = {**self.shop.environment, "USE_SQS_TASK_PROCESSING": "false", **variables}
        with self.shop.log_file.open("ab") as log:
            bridge = self.shop.children.start(
                [sys.executable, "-c", BRIDGE], environment=environment, output=log
            )
        self.shop.workers.append(bridge)
        return bridge

    def kill_all(self) -> None:
        """Kill every process that runs."""
        for each in self.shop.workers:
            if each.poll() is None:
                self.shop.kill(each)

    def submit(self, topic: str, *data: BaseModel, entity: str | None = None) -> list[str]:
        """Emit an event for each; the ids of their jobs."""
        records, jobs = [], []
        for each in data:
            event = Event(
                id=uuid.uuid4().hex,
                source="test",
                type=topic,
                time=datetime.now(UTC),
                entity_id=entity or uuid.uuid4().hex,
                data=each.model_dump_json().encode(),
            )
            key, value, headers = events.encode(event)
            records.append(
                OutgoingRecord(topic=self.shop.settings.topic(topic), key=key, value=value, headers=headers)
            )
            jobs.append(identity.job_id(event.source, event.id))
        self.emit(records)
        return jobs

    def emit(self, records: list[OutgoingRecord]) -> None:
        assert self.producer.emit(records, 30) == [None] * len(records)

    def lag(self) -> int:
        settings = self.shop.settings
        topics = [settings.topic(stage.consumes) for stage in self.shop.registry.by_name.values()]
        return lag(settings, topics)

    def wait_job(self, job_id: str, state: JobState = JobState.COMPLETE) -> Job:
        """Wait until it is there, and in that state."""

        def reached() -> bool:
            job = self.shop.store.records.get(job_id)
            return job is not None and job.state is state

        self.shop.wait(reached, f"job {job_id} {state}")
        return self.shop.job(job_id)

    def wait_committed(self) -> None:
        self.shop.wait(lambda: self.lag() == 0, "all committed")

    def distinct(self, topic: str, key: str) -> int:
        """How many different events there are about ``key``."""
        return len(
            {
                dict(message.headers)["ce_id"]
                for message, data in self.shop.events(topic)
                if data.get("key") == key
            }
        )

    def members(self) -> list[Any]:
        """The members of the group."""
        return list(members(self.shop.settings))

    def cli(self, *arguments: str) -> str:
        """Return the output of a ``pipeline`` command."""
        result = CliRunner().invoke(main, arguments, env=self.shop.environment)
        assert result.exit_code == 0, result.output
        return result.stdout

    def letters(self, job_id: str) -> list[dict[str, Any]]:
        """The dead letters of a job."""
        lines = self.cli("dlq", "list", "--json", "--job", job_id).splitlines()
        return [json.loads(line) for line in lines]

    def events_of(self, topic: str, key: str) -> list[Any]:
        """The events about ``key`` on a topic."""
        return [data for _, data in self.shop.events(topic) if data.get("key") == key]


@pytest.fixture(scope="module")
def mill(
    local_services: Services, make_environment: MakeEnvironment, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mill]:
    """A service without a task queue. Its bridge has a name: it is back as soon as it is started again."""
    with open_shop(
        local_services,
        make_environment,
        tmp_path_factory.mktemp("mill"),
        KAFKA_GROUP_INSTANCE_ID="mill",
    ) as shop:
        shop.delete_queue()
        producer = EventProducer(shop.settings, "test")
        yield Mill(shop, producer)
        producer.close(5)


@pytest.fixture
def bridge(mill: Mill) -> Iterator[Bridge]:
    """A bridge that runs the stages; whatever a test leaves running ends with it."""
    yield mill.start()
    mill.kill_all()


# The first test: a bridge with a name that a test killed is a member until its session is over.
def test_a_second_bridge_takes_its_share(mill: Mill, monkeypatch: pytest.MonkeyPatch) -> None:
    """Joining and leaving while events flow: each runs to its end, an entity's in order."""
    monkeypatch.delitem(mill.shop.environment, "KAFKA_GROUP_INSTANCE_ID")
    entities = [uuid.uuid4().hex for _ in range(8)]
    first = mill.start()
    with contextlib.ExitStack() as ending:
        ending.callback(mill.kill_all)
        jobs = []
        for turn in range(12):
            for entity in entities:
                jobs += mill.submit("visits", Order(key=f"{entity}.{turn:02}"), entity=entity)
            if turn == 4:
                second = mill.start()
            if turn == 8:
                mill.shop.wait(lambda: len(mill.members()) == 2, "two members")
                assert mill.shop.stop(first) == 0
        for job in jobs:
            mill.wait_job(job)
        mill.wait_committed()
        assert mill.shop.stop(second) == 0
    for entity in entities:
        ends = [
            line["key"]
            for line in mill.shop.all_lines()
            if line["key"].startswith(entity) and line["what"] == "end"
        ]
        assert ends == [f"{entity}.{turn:02}" for turn in range(12)]


def test_events_run_to_their_end(mill: Mill, bridge: Bridge) -> None:
    """A run, a retry, a split with its gather: their jobs complete, what they emit is there once."""
    one, tried = mill.submit("orders", Order(key="one"), Order(key="tried", do="fail", times=1))
    many, none = mill.submit("batches", Batch(key="many", parts=5), Batch(key="none", parts=0))
    for job in (one, tried, many, none):
        mill.wait_job(job)
    assert [line["attempt"] for line in mill.shop.lines("tried", "start")] == [1, 2]
    assert mill.events_of("packed", "many") == [{"key": "many", "total": 5, "filling": ""}]
    assert mill.events_of("packed", "none") == [{"key": "none", "total": 0, "filling": ""}]
    assert len(mill.events_of("made", "one")) == 1
    mill.wait_committed()


def test_what_has_not_started_of_a_cancelled_job_never_runs(mill: Mill, bridge: Bridge) -> None:
    """A split in the middle: what runs is recorded, the rest is skipped, no gather, and the event is over."""
    (job,) = mill.submit("batches", Batch(key="cancelled", parts=8, do="hold"))
    mill.shop.wait(
        lambda: any(line["key"].startswith("cancelled/") for line in mill.shop.all_lines()), "a part runs"
    )
    mill.cli("jobs", "cancel", "--yes", job)
    mill.shop.wait_cancelled(job)
    mill.shop.let_go(*(f"cancelled/{number}" for number in range(8)))
    mill.wait_committed()
    lines = [line for line in mill.shop.all_lines() if line["key"].startswith("cancelled/")]
    ran = sum(line["what"] == "end" for line in lines)
    assert 0 < ran < 8
    assert sum(line["what"] == "start" for line in lines) == ran
    assert not mill.shop.lines("cancelled", "gather")
    assert mill.shop.job(job).state is JobState.CANCELLED


def test_nothing_behind_a_failing_head_runs_first(mill: Mill, bridge: Bridge) -> None:
    """An entity's next event waits for all attempts of the one before, and runs after its dead letter."""
    key = uuid.uuid4().hex
    orders = [Order(key=f"{key}.0", do="fail"), *(Order(key=f"{key}.{n}") for n in (1, 2))]
    failed, *jobs = mill.submit("visits", *orders, entity=key)
    for job in jobs:
        mill.wait_job(job)
    mill.wait_job(failed, JobState.FAILED)
    lines = [(line["key"][-1], line["what"]) for line in mill.shop.all_lines() if line["key"].startswith(key)]
    assert lines == [("0", "start")] * 3 + [(n, what) for n in "12" for what in ("start", "end")]


def test_a_dead_letter_is_an_event_and_its_redrive_runs_what_is_left(mill: Mill, bridge: Bridge) -> None:
    """It is on the DLQ topic with its stage and reason; redriven, parts that were done do not run again."""
    key = uuid.uuid4().hex
    mill.shop.let_go(f"{key}/0")
    (job,) = mill.submit("batches", Batch(key=key, parts=3, do="need-key"))
    mill.wait_job(job, JobState.FAILED)
    (letter,) = mill.letters(job)
    assert letter["stage"] == "pack"
    assert "part" in letter["reason"]
    assert "no key" in letter["reason"]
    mill.wait_committed()
    mill.shop.let_go(*(f"{key}/{part}" for part in range(3)))
    done = {n for n in range(3) if mill.shop.lines(f"{key}/{n}", "end")}
    mill.cli("dlq", "redrive", "--job", job, "--yes")
    mill.wait_job(job)
    assert mill.letters(job) == []
    for part in range(3):
        assert len(mill.shop.lines(f"{key}/{part}", "end")) == 1
        assert len(mill.shop.lines(f"{key}/{part}", "start")) == (1 if part in done else 2)
    assert mill.events_of("packed", key) == [{"key": key, "total": 3, "filling": ""}]


def test_a_child_that_ends_is_an_attempt(mill: Mill, bridge: Bridge) -> None:
    """Killed at its time limit, or by its own task; after the attempts a dead letter. The bridge lives."""
    late, killed = uuid.uuid4().hex, uuid.uuid4().hex
    (slow,) = mill.submit("slow-orders", Order(key=late, do="sleep", seconds=30))
    (kill,) = mill.submit("quick-orders", Order(key=killed, do="kill"))
    mill.wait_job(slow, JobState.FAILED)
    assert [line["attempt"] for line in mill.shop.lines(late, "start")] == [1, 1, 2, 2], "soft, then hard"
    assert "TimeLimitExceeded" in mill.letters(slow)[0]["error"]
    mill.wait_job(kill, JobState.FAILED)
    assert len(mill.shop.lines(killed, "start")) == 1
    assert "WorkerLostError" in mill.letters(kill)[0]["error"]
    assert bridge.poll() is None


def test_a_stopped_bridge_lets_its_tasks_end(mill: Mill, bridge: Bridge) -> None:
    """Running tasks end and are committed; waiting ones run once, at the next start."""
    keys = [uuid.uuid4().hex for _ in range(6)]
    jobs = mill.submit("orders", *(Order(key=key, do="hold") for key in keys))
    mill.shop.wait(lambda: any(mill.shop.lines(key, "start") for key in keys), "a run")
    held = mill.shop.log().count(HOLDS)
    bridge.terminate()
    mill.shop.wait(lambda: mill.shop.log().count(HOLDS) > held, "it begins nothing more")
    mill.shop.let_go(*keys)
    assert bridge.wait(PATIENCE) == 0
    mill.shop.kill(bridge)
    started = [key for key in keys if mill.shop.lines(key, "start")]
    assert 1 <= len(started) <= 2
    assert all(mill.shop.lines(key, "end") for key in started)
    assert len(mill.events_of("made", started[0])) == 1
    mill.start()
    for job in jobs:
        mill.wait_job(job)
    assert all(len(mill.shop.lines(key, "start")) == 1 for key in keys)


@pytest.mark.parametrize("when", ["start", "split", "gather"])
def test_a_killed_bridge_loses_and_doubles_nothing(mill: Mill, bridge: Bridge, when: str) -> None:
    """kill -9 while parts run, as soon as it split, as soon as it gathered: one event comes of it."""
    key, singles = uuid.uuid4().hex, [uuid.uuid4().hex for _ in range(20)]
    (batch,) = mill.submit("batches", Batch(key=key, parts=30))
    jobs = mill.submit("orders", *(Order(key=single) for single in singles))
    mill.shop.wait_line(f"{key}/7" if when == "start" else key, when)
    mill.shop.kill(bridge)
    mill.start()
    for job in (batch, *jobs):
        mill.wait_job(job)
    mill.wait_committed()
    assert mill.distinct("packed", key) == 1
    assert all(mill.distinct("made", single) == 1 for single in singles)
    assert len(mill.shop.lines(key, "split")) <= 2
    assert mill.shop.lines(key, "gather")[-1]["total"] == 30


def test_a_task_that_kills_the_bridge_is_found(mill: Mill, bridge: Bridge) -> None:
    """From its fourth start on each is an attempt; after those no more. What ran beside it completes."""
    key, other = uuid.uuid4().hex, uuid.uuid4().hex
    (job,) = mill.submit("orders", Order(key=key, do="kill-worker"))
    (beside,) = mill.submit("orders", Order(key=other, do="sleep", seconds=1))
    for _ in range(6):
        bridge.wait(PATIENCE)
        mill.shop.kill(bridge)
        bridge = mill.start()
    mill.wait_job(job, JobState.FAILED)
    mill.wait_job(beside)
    assert [line["attempt"] for line in mill.shop.lines(key, "start")] == [1, 1, 1, 1, 2, 3]
    mill.wait_committed()
    assert bridge.poll() is None


def test_what_a_bridge_keeps_goes_on_while_what_comes_waits(
    local_services: Services, make_environment: MakeEnvironment, tmp_path: Path
) -> None:
    """Given the share of one that leaves, a bridge runs that once the queue is empty, its own meanwhile."""
    with open_shop(local_services, make_environment, tmp_path) as shop:
        mill = Mill(shop, EventProducer(shop.settings, "test"))
        topics = ("orders", "visits")

        def shares() -> list[set[Partition]]:
            names = {shop.settings.topic(topic) for topic in topics}
            return [{each for each in member.partitions if each.topic in names} for member in mill.members()]

        mill.start()
        shop.wait(lambda: len(shares()) == 1, "one bridge")
        second = mill.start()
        shop.wait(lambda: [bool(share) for share in shares()] == [True, True], "two shares")
        (early,) = mill.submit("orders", Order(key="early"))
        mill.wait_job(early)
        before = shares()
        shop.send_raw("somebody's")
        assert shop.stop(second) == 0
        shop.wait(lambda: len(shares()) == 1 and shares()[0] == set.union(*before), "all are the first's")
        late = [
            job
            for topic in topics
            for job in mill.submit(topic, *(Order(key=uuid.uuid4().hex) for _ in range(40)))
        ]
        whence = {
            identity.job_id("test", dict(message.headers)["ce_id"].decode()): Partition(
                message.topic, message.partition
            )
            for topic in topics
            for message, _ in shop.events(topic)
        }

        def done() -> set[str]:
            jobs = {job: shop.store.records.get(job) for job in late}
            return {name for name, job in jobs.items() if job and job.state is JobState.COMPLETE}

        kept = [{job for job in late if whence[job] in share} for share in before]
        shop.wait(lambda: done() in kept, "those that it had are done")
        shop.purge()
        for job in late:
            mill.wait_job(job)
        mill.wait_committed()
        mill.kill_all()
        mill.producer.close(5)


def test_switching_back_and_forth(
    local_services: Services, make_environment: MakeEnvironment, tmp_path: Path
) -> None:
    """From SQS it waits until what was sent is through; to SQS it goes at once. Order and ends are kept."""
    with open_shop(local_services, make_environment, tmp_path, KAFKA_GROUP_INSTANCE_ID="mill") as shop:
        mill = Mill(shop, EventProducer(shop.settings, "test"))
        entity = uuid.uuid4().hex
        jobs: list[str] = []

        def send(**order: Any) -> None:
            jobs.extend(mill.submit("visits", Order(key=f"{entity}.{len(jobs)}", **order), entity=entity))

        bridge = mill.start(USE_SQS_TASK_PROCESSING="true")
        send()
        shop.wait(lambda: shop.queue.depth().available == 1, "it is sent")
        # Gone without a commit of it, perhaps: what was sent may come again.
        shop.kill(bridge)
        bridge = mill.start()
        send()
        shop.wait(lambda: "bridge.waits_for_queues" in shop.log(), "it waits")
        assert shop.all_lines() == []
        worker = shop.start()
        for job in jobs:
            mill.wait_job(job)
        send(do="sleep", seconds=1)
        mill.wait_job(jobs[-1])
        mill.wait_committed()
        shop.kill(bridge)
        for kind in ("true", "false", "true"):
            bridge = mill.start(USE_SQS_TASK_PROCESSING=kind)
            send()
            send()
            mill.wait_job(jobs[-1])
            mill.wait_committed()
            assert shop.stop(bridge) == 0
        assert shop.stop(worker) == 0
        started = [line["key"] for line in shop.all_lines() if line["what"] == "start"]
        assert started == [f"{entity}.{number}" for number in range(len(jobs))]
        mill.producer.close(5)
