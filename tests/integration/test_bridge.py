"""Every event becomes its tasks, in order, or a dead letter with its reason; no offset is skipped."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from pipeline.author.decorator import stage
from pipeline.author.registry import Registry
from pipeline.bridge import bridge, throttle
from pipeline.bridge.bridge import Bridge
from pipeline.bridge.delivery import SqsDelivery
from pipeline.bridge.knownplans import KnownPlans
from pipeline.bridge.pulse import Pulse
from pipeline.errors import ServiceRefusedError, ServiceUnavailableError
from pipeline.infra.provision import provision
from pipeline.jobs import JobState, JobStore, NewJob
from pipeline.kafka import EventConsumer, EventProducer, KafkaAdmin, OutgoingRecord, Partition, ReceivedRecord
from pipeline.services.environment import Services
from pipeline.settings import Settings, load_settings
from pipeline.sqs import OutgoingMessage, ReceivedMessage, SqsQueue, sqs_client
from pipeline.telemetry import metrics
from pipeline.wire import events, identity
from pipeline.wire.events import Event
from tests.conftest import MakeEnvironment, MakeSettings
from tests.kafkagroups import lag, members
from tests.loglines import log_lines
from tests.processes import PATIENCE, wait_until
from tests.unit.test_events import FOREIGN, REQUIRED

pytestmark = pytest.mark.one_set

SOURCE = "/tests"


@pytest.fixture
def registry() -> Registry:
    registry = Registry()

    @stage(consumes="letters", emits="words", ordered=True, registry=registry)
    def read(letter: str) -> str:
        return letter

    return registry


@dataclass
class World:
    """A provisioned service of its own, and the hands to try it with."""

    settings: Settings
    registry: Registry
    producer: EventProducer

    @property
    def topic(self) -> str:
        return self.settings.topic("letters")

    @property
    def queue(self) -> SqsQueue:
        return SqsQueue(sqs_client(self.settings), self.settings.sqs_task_queue_url)

    def emit(self, records: list[OutgoingRecord]) -> None:
        assert self.producer.emit(records, 30) == [None] * len(records)

    def letter(self, number: int, entity: str = "ada", **changes: object) -> OutgoingRecord:
        given: dict[str, object] = {
            "id": f"e-{number}",
            "source": SOURCE,
            "type": "letters",
            "time": datetime.now(UTC),
            "entity_id": entity,
            "data": json.dumps(number).encode(),
            **changes,
        }
        key, value, headers = events.encode(Event(**given))  # type: ignore[arg-type]
        return OutgoingRecord(topic=self.topic, key=key, value=value, headers=headers)

    def lag(self) -> int:
        return lag(self.settings, [self.topic])

    def receive(self, count: int) -> list[ReceivedMessage]:
        """Receive and delete that many tasks, and see that no more come."""
        received: list[ReceivedMessage] = []

        def take() -> bool:
            # As long as there are more: the limit is for the next one, not for all of them.
            while batch := self.queue.receive(10, wait_seconds=1, visibility_seconds=60):
                self.queue.delete([message.receipt_handle for message in batch])
                received.extend(batch)
                if len(received) >= count:
                    return True
            return False

        wait_until(take, f"{count} tasks")
        assert self.queue.receive(10, wait_seconds=0, visibility_seconds=60) == []
        return received

    def read(self, name: str, count: int) -> list[ReceivedRecord]:
        """That many records of a topic, from its start."""
        found: list[ReceivedRecord] = []
        consumer = EventConsumer(
            self.settings,
            [self.settings.topic(name)],
            f"{self.settings.kafka_consumer_group}-reader-{time.time_ns()}",
        )
        try:
            wait_until(lambda: found.extend(consumer.poll(100, 0.2)) or len(found) >= count, name)  # type: ignore[func-returns-value]
        finally:
            consumer.close()
        return found

    def make_bridge(self) -> Bridge:
        """A bridge of these stages, which asks no other for its deployment."""
        plans = KnownPlans(self.registry.routes)
        delivery = SqsDelivery.make(self.settings, plans)
        return Bridge(self.settings, plans, plans.topics, delivery, Pulse())

    @contextlib.contextmanager
    def bridge(self) -> Iterator[None]:
        """A bridge runs while the block does; it is stopped as a signal stops it."""
        stop, failed = threading.Event(), []

        def run() -> None:
            try:
                self.make_bridge().run(stop)
            except BaseException as error:  # noqa: BLE001 - shown by the assertion below
                failed.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(60)
        assert not thread.is_alive()
        assert failed == []


@pytest.fixture
def world(services: Services, make_settings: MakeSettings, registry: Registry) -> Iterator[World]:
    settings = make_settings(services)
    list(provision(settings, registry))
    producer = EventProducer(settings, "test")
    yield World(settings, registry, producer)
    producer.close(5)


def _data(message: ReceivedMessage) -> object:
    return json.loads(json.loads(message.body)["body"])[0][0]


def _by_entity(messages: list[ReceivedMessage]) -> dict[str, list[object]]:
    found: dict[str, list[object]] = {}
    for message in messages:
        found.setdefault(message.group_id, []).append(_data(message))
    return found


def test_events_become_tasks_in_the_order_of_each_entity(world: World) -> None:
    """Every event has its task, once, behind those of its entity before it; then its offset is committed."""
    world.emit([world.letter(n, entity=f"entity-{n % 7}") for n in range(100)])
    with world.bridge():
        tasks = world.receive(100)
    assert _by_entity(tasks) == {f"entity-{e}": list(range(e, 100, 7)) for e in range(7)}
    assert {message.deduplication_id for message in tasks} == {
        identity.task_id(SOURCE, f"e-{n}", "read", None) for n in range(100)
    }
    assert world.lag() == 0


def test_each_step_is_measured(world: World) -> None:
    """Read, sent, how full the requests were, how long it took; what is left of a partition."""

    def counted(name: str, **labels: str) -> float:
        return metrics.REGISTRY.get_sample_value(name, labels) or 0.0

    queue, seconds = world.settings.task_queue, "pipeline_event_to_sqs_seconds_count"
    before = counted(seconds)
    world.emit([world.letter(n, entity=f"entity-{n % 7}") for n in range(30)])
    with world.bridge():
        world.receive(30)
        wait_until(lambda: world.lag() == 0, "all committed")
        nothing = rf'pipeline_uncommitted_events{{partition="\d",topic="{world.topic}"}} 0.0'
        # The broker knows of a commit before the bridge has its answer.
        wait_until(lambda: re.search(nothing, metrics.exposition().decode()), "nothing uncommitted")
        text = metrics.exposition().decode()
    assert counted("pipeline_events_polled_total", topic=world.topic) == 30
    assert counted("pipeline_tasks_sent_total", queue=queue) == 30
    assert counted(seconds) == before + 30
    assert re.search(rf'pipeline_partition_lag{{partition="\d",topic="{world.topic}"}} 0.0', text)


def test_a_plain_event_starts_a_job(world: World) -> None:
    """JSON without any header: a job record is there before its task is."""
    world.emit([OutgoingRecord(topic=world.topic, key=b"ada", value=b'"hello"')])
    with world.bridge():
        (task,) = world.receive(1)
    header = json.loads(task.body)["headers"]["pipeline"]
    job = JobStore(world.settings).records.get(header["job_id"])
    assert job
    assert (job.state, job.entity_id, job.topic) == (JobState.RUNNING, "ada", "letters")
    assert job.plan.terminals == {"read"}
    assert (header["topic"], header["entity_id"]) == (world.topic, "ada")


def test_a_tombstone_is_a_task_only_of_stages_that_ask_for_it(world: World, registry: Registry) -> None:
    """Others pass it over: no task, no dead letter, no lag; it is counted."""
    tombstone = OutgoingRecord(topic=world.topic, key=b"ada", value=None)
    world.emit([tombstone, world.letter(1)])
    with world.bridge():
        assert [_data(task) for task in world.receive(1)] == [1]
        wait_until(lambda: world.lag() == 0, "all committed")
    assert metrics.REGISTRY.get_sample_value("pipeline_tombstones_total", {"topic": world.topic}) == 1

    @stage(consumes="letters", tombstones=True, registry=registry)
    def forget(letter: int | None) -> None: ...

    world.emit([tombstone])
    with world.bridge():
        (task,) = world.receive(1)
    header = json.loads(task.body)["headers"]["pipeline"]
    assert (_data(task), header["stage"]) == (None, "forget")
    job = JobStore(world.settings).records.get(header["job_id"])
    assert job
    assert set(job.plan.stages) == {"forget"}


def test_a_replayed_event_makes_no_second_task(world: World) -> None:
    """The same event twice on the topic, and again after a restart, is one task."""
    world.emit([world.letter(1), world.letter(1)])
    with world.bridge():
        world.receive(1)
    world.emit([world.letter(1), world.letter(2)])
    with world.bridge():
        assert [_data(task) for task in world.receive(1)] == [2]
    assert world.lag() == 0


def test_what_is_no_event_goes_to_both_topics_and_blocks_nothing(world: World) -> None:
    """Its bytes and headers are kept, an error event says why, its job fails, and the next event passes."""
    store = JobStore(world.settings)
    store.records.open(
        [
            NewJob(
                job_id="job-1",
                entity_id="ada",
                topic="letters",
                plan=world.registry.plan("letters"),
                submitted_at=time.time(),
            )
        ]
    )
    headers = tuple((f"ce_{name}", value.encode()) for name, value in _emitted(world, "job-1").items())
    bad = OutgoingRecord(topic=world.topic, key=b"ada", value=b"\xff no json", headers=headers)
    world.emit([bad, world.letter(1)])
    with world.bridge():
        assert [_data(task) for task in world.receive(1)] == [1]
        (letter,) = world.read("dlq", 1)
        said = {
            json.loads(m.value or b"")["kind"]: json.loads(m.value or b"") for m in world.read("errors", 2)
        }
    assert (letter.key, letter.value, letter.headers[: len(headers)]) == (b"ada", bad.value, headers)
    assert dict(letter.headers)["dlq_topic"] == world.topic.encode()
    assert said["event"]["error"] == "InvalidEventError"
    assert (said["event"]["topic"], said["event"]["job_id"]) == (world.topic, "job-1")
    assert said["job"]["job_id"] == "job-1"
    job = store.records.get("job-1")
    assert job
    assert job.state is JobState.FAILED
    assert world.lag() == 0


def _emitted(world: World, job_id: str) -> dict[str, str]:
    """Return the headers of an event that one of the service's own stages emits."""
    return {
        "id": "e-1",
        "source": f"/{world.settings.service_name}/before",
        "type": "letters",
        "stage": "before",
        "jobid": job_id,
    }


def test_an_event_too_large_for_sqs_goes_to_both_topics(world: World) -> None:
    """It fits Kafka and not SQS: its job fails, those behind it in its group pass."""
    large = json.dumps("x" * 1_100_000).encode()
    world.emit([world.letter(1), world.letter(2, data=large), world.letter(3)])
    with world.bridge():
        assert [_data(task) for task in world.receive(2)] == [1, 3]
        (letter,) = world.read("dlq", 1)
        world.read("errors", 2)
    assert letter.value == large
    assert dict(letter.headers)["dlq_stage"] == b"read"
    job = JobStore(world.settings).records.get(identity.job_id(SOURCE, "e-2"))
    assert job
    assert job.state is JobState.FAILED
    assert world.lag() == 0


def test_a_backlog_is_taken_without_a_pause(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Full for a moment, the bridge keeps what Kafka's client has fetched: a pause would throw it away."""
    paused: list[Partition] = []
    sending = threading.Event()

    def send(queue: SqsQueue, messages: list[OutgoingMessage]) -> list[None]:
        assert sending.wait(60)
        return [None] * len(messages)

    def held() -> float:
        metrics.exposition()
        return metrics.REGISTRY.get_sample_value("pipeline_events_held") or 0.0

    monkeypatch.setattr(SqsQueue, "send", send)
    monkeypatch.setattr(throttle, "PAUSE_AFTER", 60.0)
    monkeypatch.setattr(throttle, "MAX_EVENTS", 100)
    # The events begin jobs: a table that is slow to open them would pause their partitions.
    monkeypatch.setattr(throttle, "MAX_OPENING_EVENTS", 10_000)
    monkeypatch.setattr(EventConsumer, "pause", lambda _, partitions: paused.extend(partitions))
    world.emit([world.letter(n, entity=f"entity-{n}") for n in range(1000)])
    with world.bridge():
        wait_until(lambda: held() >= throttle.MAX_EVENTS, "more than it may hold")
        sending.set()
        wait_until(lambda: world.lag() == 0, "all committed")
    assert paused == []


def test_nothing_is_committed_while_sqs_is_away(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bridge waits, stops when told, and the next one sends all of it."""
    world.emit([world.letter(n) for n in range(5)])
    with monkeypatch.context() as away:
        away.setenv("AWS_ENDPOINT_URL_SQS", "http://127.0.0.1:1")
        away.setattr("pipeline.bridge.delivery.Delivery.stop_wait", 0.1)
        with world.bridge():
            time.sleep(2)  # time in which it could do wrong
    assert world.lag() == 5
    with world.bridge():
        assert [_data(task) for task in world.receive(5)] == [0, 1, 2, 3, 4]
    assert world.lag() == 0


def test_a_missing_queue_ends_the_bridge(world: World) -> None:
    """It says so instead of burying good events; nothing is committed."""
    sqs_client(world.settings).delete_queue(QueueUrl=world.settings.sqs_task_queue_url)
    world.emit([world.letter(n) for n in range(5)])
    with pytest.raises(ServiceRefusedError, match="pipeline provision"):
        world.make_bridge().run(threading.Event())
    assert world.lag() == 5


# ─── As processes ───


#: A bridge whose session (of the protocol "classic") lasts longer than its restart on a busy machine.
LONG_SESSION = (
    "import sys, pipeline.kafka.consumer as c; c.SESSION_TIMEOUT = 60; "
    "from celery.__main__ import main; sys.argv = ['celery', '-A', 'pipeline', 'bridge']; main()"
)


@dataclass
class Processes:
    """Bridges as the command that a person types."""

    environment: dict[str, str]
    running: list[subprocess.Popen[str]]

    def start(self, *command: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, *(command or ("-m", "celery", "-A", "pipeline", "bridge"))],
            env=self.environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.running.append(process)
        return process


@pytest.fixture
def processes(local_services: Services, make_environment: MakeEnvironment) -> Iterator[Processes]:
    """On real Kafka only: how soon a dead member is missed is the mock cluster's own affair."""
    environment = make_environment(local_services, TASK_MODULES="tests.integration.letters")
    started = Processes(environment, [])
    yield started
    for process in started.running:
        process.kill()
        process.wait()
        assert process.stderr
        process.stderr.close()


@pytest.fixture
def service(processes: Processes, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """The world that ``processes`` works in."""
    for name, value in processes.environment.items():
        if name.startswith("AWS_"):
            monkeypatch.setenv(name, value)
    settings = load_settings(processes.environment)
    list(provision(settings, registry))
    producer = EventProducer(settings, "test")
    yield World(settings, registry, producer)
    producer.close(5)


def _while_alive(process: subprocess.Popen[str], condition: Callable[[], bool], what: str) -> None:
    """Wait for a condition that the process brings about; show what it said when it ended instead."""

    def reached() -> bool:
        if process.poll() is not None:
            assert process.stderr
            pytest.fail(f"the bridge ended with {process.returncode}: {process.stderr.read()}")
        try:
            return condition()
        except ServiceUnavailableError:
            return False  # the group's coordinator is not there yet

    wait_until(reached, what, 60)


def _stop(process: subprocess.Popen[str]) -> str:
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    return errors


def test_a_killed_bridge_loses_nothing(service: World, processes: Processes) -> None:
    """kill -9 in the middle: the next bridge goes on, every event has its task, in order."""
    total, more = 0, 1_500

    def sent(count: float) -> Callable[[], bool]:
        return lambda: service.queue.depth().available >= count

    # Once, unless all were sent before the kill: then with more of them.
    while service.queue.depth().available == total:
        service.emit([service.letter(n, entity=f"entity-{n % 50}") for n in range(total, total + more)])
        killed = processes.start()
        _while_alive(killed, sent(total + more / 4), "a quarter of the tasks")
        killed.kill()
        killed.wait()
        total += more
    last = processes.start()
    _while_alive(last, lambda: service.lag() == 0, "all committed")
    _stop(last)
    tasks = service.receive(total)
    assert _by_entity(tasks) == {f"entity-{e}": list(range(e, total, 50)) for e in range(50)}


def test_a_second_bridge_takes_its_share(service: World, processes: Processes) -> None:
    """Joining and leaving while events flow: every event has its task, once, in order."""
    total, entities = 2_000, 40

    def feed(begin: int, end: int) -> None:
        service.emit([service.letter(n, entity=f"entity-{n % entities}") for n in range(begin, end)])

    feed(0, 500)
    first = processes.start()
    _while_alive(first, lambda: service.lag() == 0, "the first bridge is at work")
    second = processes.start()
    done = threading.Event()

    def feed_slowly() -> None:
        for n in range(500, total, 50):
            feed(n, n + 50)
        done.set()

    feeder = threading.Thread(target=feed_slowly)
    feeder.start()
    wait_until(lambda: len(members(service.settings)) == 2, "two members")
    wait_until(done.is_set, "all emitted")
    feeder.join()
    said = _stop(first)
    _while_alive(second, lambda: service.lag() == 0, "all committed")
    said += _stop(second)
    assert said.count("bridge.assigned") >= 2
    assert "bridge.revoked" in said
    assert "bridge.commit_failed" not in said
    tasks = service.receive(total)
    assert _by_entity(tasks) == {f"entity-{e}": list(range(e, total, entities)) for e in range(entities)}


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_a_bridge_with_a_name_comes_back_to_its_partitions(
    service: World, processes: Processes, protocol: str
) -> None:
    """Stopped and started again within its session the other bridge keeps what it had, and gets nothing."""
    processes.environment["KAFKA_GROUP_PROTOCOL"] = protocol

    def start(name: str) -> subprocess.Popen[str]:
        processes.environment["KAFKA_GROUP_INSTANCE_ID"] = name
        return processes.start("-c", LONG_SESSION)

    def shared() -> bool:
        return sorted(len(member.partitions) for member in members(service.settings)) == [2, 2]

    one, other = start("one"), start("other")
    wait_until(shared, "both have their share")
    service.emit([service.letter(n, entity=f"entity-{n}") for n in range(40)])
    _while_alive(other, lambda: service.lag() == 0, "both have read from their share, so both know it")
    stopped_at = datetime.now(UTC)
    _stop(one)
    one = start("one")
    service.emit([service.letter(n, entity=f"entity-{n}") for n in range(40, 80)])
    _while_alive(one, lambda: service.lag() == 0, "all committed")
    assert shared()
    _stop(one)
    said = [json.loads(line) for line in _stop(other).splitlines() if '"bridge.assigned"' in line]
    assert said
    assert all(datetime.fromisoformat(line["timestamp"]) < stopped_at for line in said), "it was disturbed"


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_of_two_members_with_one_name_one_is_refused(
    local_services: Services, make_settings: MakeSettings, registry: Registry, protocol: str
) -> None:
    """It is told why, instead of waiting for ever for partitions that it never gets."""
    settings = make_settings(
        local_services, KAFKA_GROUP_PROTOCOL=protocol, KAFKA_GROUP_INSTANCE_ID="bridge-0"
    )
    list(provision(settings, registry))
    assigned: list[int] = []

    def member() -> EventConsumer:
        return EventConsumer(
            settings,
            [settings.topic("letters")],
            settings.kafka_consumer_group,
            on_assigned=lambda partitions: assigned.append(len(partitions)),
        )

    with contextlib.ExitStack() as closing:
        members = [member()]
        closing.callback(members[0].close)
        wait_until(lambda: members[0].poll(1, 0.1) or sum(assigned) == 4, "the first has all")
        members.append(member())
        closing.callback(members[1].close)
        with pytest.raises(ServiceRefusedError, match="KAFKA_GROUP_INSTANCE_ID"):
            wait_until(lambda: [each.poll(1, 0.1) for each in members] and False, "a refusal")


def test_aborted_transactions_never_run(service: World) -> None:
    """Tasks are those of the committed records; markers and aborted ones behind the last leave no lag."""
    producer = Producer(
        {
            "bootstrap.servers": service.settings.kafka_bootstrap_servers,
            "transactional.id": service.settings.service_name,
        }
    )
    producer.init_transactions(PATIENCE)
    for value, end in (
        (b'"aborted"', producer.abort_transaction),
        (b'"committed"', producer.commit_transaction),
        (b'"aborted"', producer.abort_transaction),
    ):
        producer.begin_transaction()
        for n in range(8):
            producer.produce(service.topic, value, key=b"%d" % n)
        producer.flush(PATIENCE)
        end(PATIENCE)
    with service.bridge():
        assert [_data(task) for task in service.receive(8)] == ["committed"] * 8
        wait_until(lambda: service.lag() == 0, "no lag")


def test_an_event_with_headers_of_other_tools_is_a_task(service: World) -> None:
    """Connect's, Streams', Spring's and Debezium's: without a value, in binary, twice, or quoted."""
    producer = Producer({"bootstrap.servers": service.settings.kafka_bootstrap_servers})
    producer.produce(service.topic, b'"plain"', key=b"ada", headers=[*FOREIGN])
    own = {**REQUIRED, "content-type": b"application/json"}
    quoted = [(name, json.dumps(text.decode())) for name, text in own.items()]
    producer.produce(service.topic, b'"event"', key=b"ada", headers=[*FOREIGN, *quoted])
    assert producer.flush(PATIENCE) == 0
    with service.bridge():
        assert [_data(task) for task in service.receive(2)] == ["plain", "event"]


def test_events_that_retention_deleted_are_counted(service: World) -> None:
    """The bridge goes on with the first event that is left; the count and the log say how many are not."""
    service.emit([service.letter(n) for n in range(10)])
    with service.bridge():
        (first, *_) = service.receive(10)
    at = TopicPartition(service.topic, json.loads(first.body)["headers"]["pipeline"]["partition"], 25)
    service.emit([service.letter(n) for n in range(10, 30)])
    with log_lines(bridge) as lines:
        vendor = AdminClient({"bootstrap.servers": service.settings.kafka_bootstrap_servers})
        vendor.delete_records([at])[at].result(PATIENCE)
        with service.bridge():
            assert [_data(task) for task in service.receive(5)] == list(range(25, 30))
    labels = {"topic": service.topic}
    assert metrics.REGISTRY.get_sample_value("pipeline_events_expired_total", labels) == 15
    assert [line["lost"] for line in lines if line["event"] == "bridge.events_expired"] == [15]


def test_a_topic_made_again_loses_no_event(service: World) -> None:
    """While the bridge runs: also the events below the offset that it had reached in the old topic."""
    service.emit([service.letter(n) for n in range(10)])
    with service.bridge():
        service.receive(10)
        wait_until(lambda: service.lag() == 0, "all committed")
        vendor = AdminClient({"bootstrap.servers": service.settings.kafka_bootstrap_servers})
        topic = service.topic
        vendor.delete_topics([topic])[topic].result(PATIENCE)
        wait_until(
            lambda: KafkaAdmin(service.settings).create(
                service.topic, partitions=4, replication=1, config={}
            ),
            "the topic again",
        )
        service.emit([service.letter(n) for n in range(100, 115)])
        assert sorted(_data(task) for task in service.receive(15)) == list(range(100, 115))  # type: ignore[type-var]


def test_with_kafka_switched_off_nothing_is_taken(service: World, processes: Processes) -> None:
    """It says so, waits, commits nothing, and stops when told."""
    processes.environment["KAFKA_ENABLED"] = "false"
    service.emit([service.letter(1)])
    process = processes.start()
    assert process.stderr
    line = process.stderr.readline()
    assert "bridge.off" in line
    assert "KAFKA_ENABLED" in line
    _stop(process)
    assert service.lag() == 1


def test_without_the_app_it_is_refused() -> None:
    """``celery bridge`` alone has Celery's own app: one line names the right command."""
    result = subprocess.run(
        [sys.executable, "-m", "celery", "bridge"],
        env={**os.environ, "SERVICE_NAME": "x"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 2
    assert "celery -A pipeline bridge" in result.stderr
