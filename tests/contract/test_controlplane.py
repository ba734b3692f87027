"""The behaviour that Celery's control plane relies on, on embedded and local services, without a worker."""

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from celery import Celery
from celery.events.receiver import EventReceiver
from confluent_kafka import Producer
from kombu.exceptions import OperationalError
from pydantic import SecretStr

from pipeline.celery import make_app
from pipeline.control.controlmessage import EVENTS
from pipeline.control.controlplane import ControlPlane, close_control_plane, control_plane
from pipeline.errors import ServiceRefusedError
from pipeline.kafka import EventProducer, KafkaAdmin, LogReader, OutgoingRecord, ReceivedRecord
from pipeline.services.environment import Services
from pipeline.settings import Settings
from pipeline.transport.wakeup import WakeupPipe
from tests.conftest import MakeSettings
from tests.processes import PATIENCE, wait_until

#: Seconds that who asks waits for answers that do not come.
ASK_FOR = 20.0


@pytest.fixture
def settings(services: Services, make_settings: MakeSettings) -> Settings:
    """Settings of a service that has its control topics, and whose workers obey ``echo`` and ``hello``."""
    settings = make_settings(services, CONTROL_COMMANDS="echo,hello")
    for topic in settings.control_topics:
        KafkaAdmin(settings).create(topic, partitions=1, replication=1, config={})
    return settings


@pytest.fixture
def topic(settings: Settings) -> str:
    return settings.control_topics[0]


@pytest.fixture
def producer(settings: Settings) -> Iterator[EventProducer]:
    producer = EventProducer(settings, "test")
    yield producer
    producer.close(5)


def emit(producer: EventProducer, topic: str, *values: bytes) -> None:
    records = [OutgoingRecord(topic=topic, key=b"same", value=value) for value in values]
    assert producer.emit(records, PATIENCE) == [None] * len(records)


@contextmanager
def reading(settings: Settings, topic: str, *, seconds: float = 0, records: int = 0) -> Iterator[LogReader]:
    reader = LogReader(settings, topic)
    try:
        reader.open(seconds=seconds, records=records)
        yield reader
    finally:
        reader.close()


def read(reader: LogReader, count: int) -> list[ReceivedRecord]:
    found: list[ReceivedRecord] = []
    wait_until(lambda: found.extend(reader.poll(100, 0.2)) or len(found) >= count, f"{count} records")  # type: ignore[func-returns-value]
    return found


# ─── The log ───


def test_a_reader_starts_at_the_end(settings: Settings, topic: str, producer: EventProducer) -> None:
    """Without a past it reads what is written after it was opened, from the first record on."""
    emit(producer, topic, b"before")
    with reading(settings, topic) as reader:
        assert reader.has_caught_up()
        emit(producer, topic, b"after")
        [message] = read(reader, 1)
    assert message.value == b"after"
    assert not reader.is_past(message)


def test_a_reader_starts_in_the_past(settings: Settings, topic: str, producer: EventProducer) -> None:
    """It starts at the last so many records and knows when it has caught up."""
    emit(producer, topic, *(b"%d" % number for number in range(10)))
    with reading(settings, topic, seconds=3600, records=4) as reader:
        assert not reader.has_caught_up()
        past = read(reader, 4)
        assert [message.value for message in past] == [b"6", b"7", b"8", b"9"]
        assert all(reader.is_past(message) for message in past)
        assert reader.has_caught_up()


def test_a_past_of_seconds(
    settings: Settings,
    topic: str,
    producer: EventProducer,
    services: Services,
    request: pytest.FixtureRequest,
) -> None:
    """Records older than the given age are not read."""
    if services.name == "embedded":
        request.applymarker(pytest.mark.xfail(strict=True, reason="librdkafka's mock cluster knows no times"))
    vendor = Producer({"bootstrap.servers": settings.kafka_bootstrap_servers})
    vendor.produce(topic, b"old", timestamp=int((time.time() - 3600) * 1000))
    assert vendor.flush(PATIENCE) == 0
    with reading(settings, topic, seconds=1800, records=100) as reader:
        assert reader.has_caught_up()
    emit(producer, topic, b"young")
    with reading(settings, topic, seconds=1800, records=100) as reader:
        [message] = read(reader, 1)
    assert message.value == b"young"


def test_a_missing_topic_is_refused(settings: Settings) -> None:
    """Opening it says so, with the mend."""
    reader = LogReader(settings, "absent")
    with pytest.raises(ServiceRefusedError, match="pipeline provision"):
        reader.open(seconds=0, records=0)
    reader.close()


def test_many_read_the_same(settings: Settings, topic: str, producer: EventProducer) -> None:
    """Readers share nothing: each gets every record."""
    with reading(settings, topic) as first, reading(settings, topic) as second:
        emit(producer, topic, b"1", b"2")
        assert [[m.value for m in read(reader, 2)] for reader in (first, second)] == [[b"1", b"2"]] * 2


# ─── The plane ───


@pytest.fixture
def app(settings: Settings) -> Iterator[Celery]:
    """A Celery app on these services, with a control plane of its own in this process."""
    yield make_client(settings)
    close_control_plane()


def make_client(settings: Settings) -> Celery:
    return make_app(settings)


@contextmanager
def listening(app: Celery, name: str) -> Iterator[list[dict[str, Any]]]:
    """A mailbox as a worker has one, that answers to ``echo``; gives the arguments it heard."""
    heard: list[dict[str, Any]] = []
    stop, ready = threading.Event(), threading.Event()

    def echo(_: object, **arguments: Any) -> dict[str, Any]:
        heard.append(arguments)
        return arguments

    def listen() -> None:
        with app.connection_for_read() as connection:
            node = app.control.mailbox.Node(
                name, handlers={"echo": echo, "hello": lambda _: "hello"}, channel=connection.channel()
            )
            with node.listen():
                ready.set()
                while not stop.is_set():
                    try:
                        connection.drain_events(timeout=0.1)
                    except TimeoutError:
                        continue

    thread = threading.Thread(target=listen)
    thread.start()
    assert ready.wait(PATIENCE)
    try:
        yield heard
    finally:
        stop.set()
        thread.join(10)


def wait_hearing(app: Celery, *names: str) -> None:
    """Wait until all of these answer: they listen at once, and hear once they have found the topic's end."""
    wait_until(lambda: len(ask(app, "hello", *names)) == len(names), f"{names} hear")


def ask(app: Celery, command: str, *destination: str, **arguments: object) -> dict[str, Any]:
    """The answers of those named, by name."""
    replies = app.control.broadcast(
        command, arguments=arguments, destination=list(destination), reply=True, timeout=ASK_FOR
    )
    return {name: answer for reply in replies or () for name, answer in reply.items()}


def echo(app: Celery, *destination: str, **arguments: object) -> dict[str, Any]:
    return ask(app, "echo", *destination, **arguments)


def test_commands_reach_those_they_name(app: Celery) -> None:
    """A command is carried out by those it names; who asked has its answers when the last has come."""
    with listening(app, "a") as at_a, listening(app, "b") as at_b:
        wait_hearing(app, "a", "b")
        began = time.monotonic()
        assert echo(app, "a", "b", n=1) == {"a": {"n": 1}, "b": {"n": 1}}
        assert time.monotonic() - began < ASK_FOR - 1
        assert echo(app, "b", n=2) == {"b": {"n": 2}}
    assert (at_a, at_b) == ([{"n": 1}], [{"n": 1}, {"n": 2}])


def test_clients_hear_their_own_answers(app: Celery) -> None:
    """Several threads ask at once through one reader; none hears another's answer."""
    answers: dict[int, dict[str, Any]] = {}

    def ask(number: int) -> None:
        answers[number] = echo(app, "a", n=number)

    with listening(app, "a"):
        wait_hearing(app, "a")
        threads = [threading.Thread(target=ask, args=(number,)) for number in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
    assert answers == {number: {"a": {"n": number}} for number in range(5)}


def test_waiting_costs_nothing(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader sleeps until a message comes or its time is over, and is not woken in between."""
    waits: list[int] = []
    wait = WakeupPipe.wait

    def counted(wakeup: WakeupPipe, timeout: float | None) -> bool:
        waits.append(threading.get_ident())
        return wait(wakeup, timeout)

    monkeypatch.setattr(WakeupPipe, "wait", counted)
    with listening(app, "a"), app.connection_for_read() as connection:
        connection.connect()
        wait_hearing(app, "a")
        waits.clear()
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            connection.drain_events(timeout=1)
        assert time.monotonic() - began >= 1
        assert waits.count(threading.get_ident()) == 1


def test_events_come_with_their_past(app: Celery) -> None:
    """A reader that starts late gets what happened before, then what happens."""
    with app.connection_for_write() as connection:
        dispatcher = app.events.Dispatcher(connection, hostname="w", buffer_while_offline=False)
        dispatcher.send("task-received", uuid="before", name="t")
        control_plane(app.pipeline.settings).close()  # sends what is queued
        heard: list[str] = []

        def hear(event: dict[str, Any]) -> None:
            heard.append(event["uuid"])
            if event["uuid"] == "before":
                dispatcher.send("task-received", uuid="after", name="t")
            receiver.should_stop = len(heard) == 2

        with app.connection_for_read() as reading_connection:
            receiver = EventReceiver(reading_connection, handlers={"task-received": hear}, app=app)
            receiver.capture(limit=None, timeout=PATIENCE, wakeup=False)
    assert heard == ["before", "after"]


def test_a_forked_child_asks_for_itself(app: Celery) -> None:
    """A child of a process that has a control plane makes its own, and is answered."""
    with listening(app, "a"):
        wait_hearing(app, "a")
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                status = 0 if echo(make_client(app.pipeline.settings), "a", n=2) == {"a": {"n": 2}} else 1
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


# ─── Commands that are refused ───


def test_a_command_that_is_not_allowed_is_refused_with_its_setting(app: Celery) -> None:
    """It has no effect, and its sender is told which setting allows it."""
    with listening(app, "a"):
        wait_hearing(app, "a")
        assert ask(app, "shutdown", "a") == {
            "a": {"error": "refused: CONTROL_COMMANDS of this worker does not allow shutdown"}
        }


def test_with_a_key_only_signed_commands_are_obeyed(settings: Settings, producer: EventProducer) -> None:
    """Clients of this project sign by themselves; a copy of their record has no effect, nor one unsigned."""
    app = make_client(settings.model_copy(update={"control_key": SecretStr("k" * 32)}))
    topic = settings.control_topics[1]
    try:
        with listening(app, "a") as heard, reading(settings, topic) as reader:
            wait_hearing(app, "a")
            assert echo(app, "a", n=1) == {"a": {"n": 1}}
            sent: list[bytes] = []

            def found() -> list[bytes]:
                sent.extend(record.value or b"" for record in reader.poll(100, 0.2))
                return [value for value in sent if b"echo" in value]

            wait_until(found, "the command on its topic")
            [copy] = found()
            unsigned = json.loads(copy)
            unsigned["headers"] = {"clock": 1, "expires": 0}
            emit(producer, topic, copy, json.dumps(unsigned).encode())
            # The answer to the copy may come first: kombu counts it as the one that is awaited.
            wait_until(lambda: echo(app, "a", n=2) == {"a": {"n": 2}}, "an answer of its own")
        assert heard.count({"n": 1}) == 1
    finally:
        close_control_plane()


# ─── Kafka out of reach ───


@pytest.fixture
def nowhere(services: Services, make_settings: MakeSettings) -> Settings:
    return make_settings(services, KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1")


def test_events_to_nowhere_are_dropped_and_counted(nowhere: Settings) -> None:
    """Publishing never waits, never raises and keeps little; what is lost is counted."""
    plane = ControlPlane(nowhere)
    began = time.monotonic()
    for _ in range(12_000):
        plane.publish(EVENTS, "task.multi", {"body": "x" * 100})
    assert time.monotonic() - began < 30
    assert plane.reachability.dropped_events >= 2_000
    plane.close()
    assert plane.reachability.dropped_events == 12_000


def test_a_worker_does_not_wait_for_nowhere(nowhere: Settings) -> None:
    """A mailbox opens within the second it gives the past; a client's question ends with the reason."""
    app = make_client(nowhere)
    began = time.monotonic()
    with listening(app, "a"):
        assert time.monotonic() - began < 15
        with pytest.raises(OperationalError, match=r"out of reach at Kafka \(127\.0\.0\.1:1\)"):
            echo(app, "a")
    assert time.monotonic() - began < 60
    close_control_plane()


def test_without_kafka_a_client_is_told_why(services: Services, make_settings: MakeSettings) -> None:
    """KAFKA_ENABLED=false: events go nowhere without a sound, a question ends with the reason."""
    app = make_client(make_settings(services, KAFKA_ENABLED="false"))
    with app.connection_for_write() as connection:
        app.events.Dispatcher(connection, hostname="w").send("worker-online")
    with pytest.raises(OperationalError, match="KAFKA_ENABLED is false"):
        echo(app, "a")
    close_control_plane()
