"""The behaviour of ``fifo://`` that kombu and Celery rely on, on the embedded and on the local services."""

import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from kombu import Connection, Consumer, Queue

from pipeline.author.decorator import stage
from pipeline.author.registry import Registry
from pipeline.control.transport import configure
from pipeline.errors import ServiceError
from pipeline.infra.provision import make_missing
from pipeline.services.environment import Services
from pipeline.settings import Settings
from pipeline.sqs import QueueDepth, SqsQueue, sqs_client
from pipeline.telemetry import metrics
from pipeline.transport import publishing
from pipeline.transport.lease import Lease
from pipeline.transport.source import TaskSource, close_task_source, task_source
from tests.conftest import MakeSettings
from tests.loglines import log_lines
from tests.processes import PATIENCE, wait_until
from tests.proxies import Proxy

LEASE = 3
#: A lease that ends in no test, so that what comes soon was not left to its end; and how soon.
LONG_LEASE, SOON = 60, 30


@dataclass
class Broker:
    """A connection as a worker has one, and what it delivered."""

    settings: Settings
    connection: Connection
    #: each delivered message: its number and itself
    got: list[Any] = field(default_factory=list)

    @property
    def queue(self) -> SqsQueue:
        return self.queue_named(self.settings.task_queue)

    def queue_named(self, name: str) -> SqsQueue:
        return SqsQueue(sqs_client(self.settings), self.settings.queue_url(name))

    @property
    def source(self) -> TaskSource:
        return task_source(self.settings)

    def publish(self, *numbers: int, queue: str | None = None, **headers: Any) -> None:
        """Publish a plain task for each number."""
        producer = self.connection.Producer()
        for number in numbers:
            producer.publish(
                [[number], {}, {}],
                routing_key=queue or self.settings.task_queue,
                serializer="json",
                headers={"id": uuid.uuid4().hex, "task": "note", **headers},
            )

    def consume(self, *names: str, prefetch: int = 10) -> Consumer:
        """Start to consume from the task queue, or from these."""
        channel = self.connection.default_channel
        channel.basic_qos(0, prefetch, False)
        queues = [Queue(name, routing_key=name) for name in names or (self.settings.task_queue,)]
        consumer = Consumer(channel, queues, on_message=self.got.append, accept=["json"])
        consumer.consume()
        return consumer

    def drain(self, until: Callable[[], object], timeout: float = PATIENCE) -> None:
        """Deliver until the condition holds."""
        deadline = time.monotonic() + timeout
        while not until():
            assert time.monotonic() < deadline, [number(message) for message in self.got]
            with suppress(TimeoutError):
                self.connection.drain_events(timeout=0.1)

    def drain_to(self, count: int, timeout: float = PATIENCE) -> None:
        """Deliver until so many came in all."""
        self.drain(lambda: len(self.got) >= count, timeout)
        assert len(self.got) == count

    def idle(self, seconds: float) -> None:
        """Deliver what comes for so long."""
        end = time.monotonic() + seconds
        self.drain(lambda: time.monotonic() > end)

    def wait_nothing_held(self) -> None:
        """SQS has done it when its depth says so; its answer may still be on its way."""
        wait_until(lambda: not any(self.source.intake.counts().values()), "nothing is held")

    def wait_depth(self, available: int, in_flight: int, timeout: float = PATIENCE) -> None:
        expected = QueueDepth(available=available, in_flight=in_flight, delayed=0)
        wait_until(lambda: self.queue.depth() == expected, f"{expected}, not {self.queue.depth()}", timeout)


def number(message: Any) -> int:
    return int(message.payload[0][0])


@contextmanager
def open_broker(settings: Settings) -> Iterator[Broker]:
    registry = Registry()

    @stage(consumes="a", queue=f"{settings.service_name}-other.fifo", registry=registry)
    def other(data: int) -> None: ...

    list(make_missing(settings, registry, kafka=False, sqs=True))
    configure(lambda: settings)
    connection = Connection("fifo://")
    try:
        yield Broker(settings, connection)
    finally:
        connection.release()
        close_task_source(5)


@pytest.fixture
def broker(services: Services, make_settings: MakeSettings) -> Iterator[Broker]:
    with open_broker(make_settings(services, SQS_LEASE_SECONDS=str(LEASE))) as broker:
        yield broker


@pytest.fixture
def lasting(services: Services, make_settings: MakeSettings) -> Iterator[Broker]:
    """A broker with a long lease."""
    with open_broker(make_settings(services, SQS_LEASE_SECONDS=str(LONG_LEASE))) as broker:
        yield broker


def test_a_published_message_is_delivered_and_deleted_when_acknowledged(broker: Broker) -> None:
    """As it was sent; nothing of it is left."""
    broker.publish(1, argsrepr="größer 漢字 🦊")
    broker.consume()
    broker.drain(lambda: broker.got)
    (message,) = broker.got
    assert message.payload == [[1], {}, {}]
    assert message.headers["argsrepr"] == "größer 漢字 🦊"
    broker.wait_depth(0, 1)
    message.ack()
    broker.wait_depth(0, 0)


def test_no_more_is_delivered_than_the_prefetch_count_allows(broker: Broker) -> None:
    """Each acknowledgement makes room for one."""
    broker.publish(*range(6))
    broker.consume(prefetch=2)
    broker.drain_to(2)
    broker.idle(1)
    assert len(broker.got) == 2
    broker.got[0].ack()
    broker.drain_to(3)
    for expected in range(3, 7):
        broker.got[expected - 2].ack()
        broker.drain_to(min(expected + 1, 6))
    assert sorted(map(number, broker.got)) == list(range(6))


def test_a_requeued_message_comes_again_at_once(lasting: Broker) -> None:
    """Again and again, each time within a moment: it is not left to its lease."""
    broker = lasting
    broker.publish(1)
    broker.consume(prefetch=1)
    for count in range(1, 16):
        broker.drain_to(count, SOON)
        broker.got[-1].requeue()
    broker.drain_to(16, SOON)
    broker.got[-1].ack()
    broker.wait_depth(0, 0)
    broker.wait_nothing_held()


def test_a_rejected_message_is_not_dropped(broker: Broker) -> None:
    """It is hidden for a while; the redrive policy ends it."""
    broker.publish(1)
    broker.consume()
    broker.drain(lambda: broker.got)
    broker.got[0].reject()
    broker.idle(LEASE + 1)
    assert len(broker.got) == 1
    broker.wait_depth(0, 1)


def test_a_groups_messages_are_delivered_one_at_a_time(broker: Broker) -> None:
    """The next when the one before is acknowledged, in order; other groups meanwhile."""
    broker.publish(0, 1, 2, 3, message_group="a")
    broker.publish(100)
    broker.consume()
    broker.drain_to(2)
    broker.idle(1)
    assert sorted(map(number, broker.got)) == [0, 100]
    for _ in range(3):
        count = len(broker.got)
        next(message for message in reversed(broker.got) if number(message) < 100).ack()
        broker.drain_to(count + 1)
    assert [number(message) for message in broker.got if number(message) < 100] == [0, 1, 2, 3]


def test_ten_of_a_group_run_before_the_first_is_deleted(lasting: Broker) -> None:
    """Each when the one before ran well; SQS delivers the next ones when all ten are deleted."""
    # Where a lease of those that ran ends, the rest goes back, and waits for their deletion.
    broker = lasting
    broker.publish(*range(15), message_group="a")
    broker.consume()
    ran = [_run_well(broker, count) for count in range(1, 11)]
    broker.source.disposal.delete(ran[:5])
    broker.idle(1)
    assert len(broker.got) == 10
    broker.source.disposal.delete(ran[5:])
    broker.source.disposal.delete([_run_well(broker, count) for count in range(11, 16)])
    assert [number(message) for message in broker.got] == list(range(15))
    broker.wait_depth(0, 0)
    broker.wait_nothing_held()


def _run_well(broker: Broker, count: int) -> Lease:
    """Wait for the delivery of this number, and end it as a run that went well."""
    broker.drain_to(count)
    lease = broker.source.intake.finish(broker.got[-1].delivery_tag)
    assert lease is not None
    broker.source.intake.let_pass(lease)
    return lease


def test_nothing_of_a_group_passes_a_requeued_head(broker: Broker) -> None:
    """The messages behind it return with it, and follow it."""
    broker.publish(0, 1, 2, message_group="a")
    broker.consume()
    seen: list[int] = []
    for _ in range(3):
        broker.drain(lambda: broker.got)
        seen.append(number(broker.got[0]))
        broker.got.pop().requeue()
    assert seen == [0, 0, 0]
    for expected in range(3):
        broker.drain(lambda: broker.got)
        assert number(broker.got[0]) == expected
        broker.got.pop().ack()


def test_what_is_held_outlives_its_visibility(services: Services, make_settings: MakeSettings) -> None:
    """Running and waiting, for three leases: nobody else gets it, and it is delivered once."""
    lease = 6  # an extension may be three seconds late
    with open_broker(make_settings(services, SQS_LEASE_SECONDS=str(lease))) as broker:
        broker.publish(1)
        broker.publish(2, 3, message_group="a")
        broker.consume()
        broker.drain_to(2)
        deadline = time.monotonic() + 3 * lease
        while time.monotonic() < deadline:
            broker.idle(0.5)
            assert broker.queue.receive(wait_seconds=0, visibility_seconds=1) == []
        assert len(broker.got) == 2
        for message in broker.got:
            held = broker.source.intake.delivered(message.delivery_tag)
            assert held is not None
            assert held.message.receive_count == 1
            message.ack()
        broker.drain_to(3)
        broker.got[-1].ack()
        broker.wait_depth(0, 0)


def test_what_the_first_poll_brings_at_once_is_not_given_back(
    lasting: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However soon SQS answers a worker that has just begun to receive: a return would cost an attempt."""
    broker = lasting

    class Overtaken(threading.Thread):
        """Is far ahead when the one that starts it goes on."""

        def start(self) -> None:
            super().start()
            time.sleep(0.3 if self.name.startswith("receive-") else 0)

    broker.publish(1)
    monkeypatch.setattr(threading, "Thread", Overtaken)
    broker.consume()
    broker.drain(lambda: broker.got)
    lease = broker.source.intake.delivered(broker.got[0].delivery_tag)
    assert lease is not None
    assert lease.message.receive_count == 1
    broker.got[0].ack()
    broker.wait_depth(0, 0)


def test_what_is_counted_of_a_queue_is_there_before_it_happens(broker: Broker) -> None:
    """Prometheus sees no increase in what begins with the first one."""
    broker.consume()
    for name in ("pipeline_tasks_received_total", "pipeline_leases_lost_total"):
        labels = {"queue": broker.settings.task_queue}
        assert metrics.REGISTRY.get_sample_value(name, labels) == 0.0


def test_a_wedged_event_loop_lets_its_messages_go(broker: Broker) -> None:
    """When nothing is delivered for some leases, the heartbeat no longer holds what others could do."""
    broker.publish(1)
    broker.consume()
    broker.drain(lambda: broker.got)
    assert broker.source.stuck() is None
    broker.source.heartbeat._sign_of_life -= 4 * LEASE
    # Received again here, it would be held again.
    wait_until(lambda: broker.source.intake.paused, "nothing more is asked for")
    assert "event loop" in (broker.source.stuck() or "")
    wait_until(lambda: broker.queue.receive(wait_seconds=0, visibility_seconds=1), "free for others")
    broker.drain(lambda: not broker.source.intake.paused)
    assert broker.source.stuck() is None


def test_a_cancelled_consumer_gives_back_at_once_what_did_not_start(lasting: Broker) -> None:
    """Delivered or waiting: another worker need not wait for the leases to end."""
    broker = lasting
    broker.publish(1, 2)
    broker.publish(3, 4, 5, message_group="a")
    consumer = broker.consume(prefetch=2)
    broker.drain_to(2)
    consumer.cancel()
    # Three of one group, of which SQS shows the first.
    broker.wait_depth(5, 0, SOON)
    broker.wait_nothing_held()


def test_a_closed_connection_loses_nothing(lasting: Broker) -> None:
    """Delivered messages return at once; a late acknowledgement has no effect."""
    broker = lasting
    broker.publish(1)
    broker.consume()
    broker.drain(lambda: broker.got)
    broker.connection.close()
    broker.wait_depth(1, 0, SOON)
    old = broker.got.pop()
    broker.consume()
    broker.drain(lambda: broker.got)
    assert old.delivery_tag != broker.got[0].delivery_tag
    broker.got[0].ack()
    broker.wait_depth(0, 0)


def test_what_runs_goes_on_over_a_reconnect(broker: Broker) -> None:
    """It stays ours, is not delivered again, and can be settled though its channel is gone."""
    broker.publish(1)
    broker.consume()
    broker.drain(lambda: broker.got)
    tag = broker.got[0].delivery_tag
    lease = broker.source.intake.delivered(tag)
    assert lease is not None
    broker.source.intake.started(lease, lease.last_end)
    broker.connection.close()
    broker.consume()
    broker.idle(LEASE + 1)
    assert len(broker.got) == 1
    assert broker.source.intake.finish(tag) is lease
    broker.source.disposal.delete([lease])
    broker.wait_depth(0, 0)


def test_reconnects_leave_nothing_behind(broker: Broker) -> None:
    """Twenty leave no twenty descriptors or threads; what the pools of connections grow by is a few."""
    rounds = 20

    def reconnect() -> tuple[int, int]:
        broker.publish(1)
        broker.consume()
        broker.drain(lambda: broker.got)
        broker.got.pop().ack()
        broker.wait_depth(0, 0)
        broker.connection.close()
        return len(os.listdir("/proc/self/fd")), threading.active_count()

    reconnect()
    wait_until(lambda: not _receivers(), "the long poll is over")
    first = reconnect()
    for _ in range(rounds):
        reconnect()
    wait_until(lambda: not _receivers(), "the long polls are over")
    last = reconnect()
    assert last[0] - first[0] < rounds / 2
    assert last[1] - first[1] < rounds / 2


def _receivers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("receive-")]


def test_a_message_with_an_eta_is_parked_until_then(broker: Broker) -> None:
    """Hidden in the queue, not held here; delivered when it is due."""
    due = datetime.now(UTC) + timedelta(seconds=LEASE + 2)
    broker.publish(1, eta=due.isoformat())
    broker.consume()
    broker.idle(1.5)
    broker.wait_nothing_held()
    broker.wait_depth(0, 1)
    broker.drain(lambda: broker.got)
    assert datetime.now(UTC) > due - timedelta(seconds=1.1)
    broker.got[0].ack()
    broker.wait_depth(0, 0)


def test_a_queue_with_nothing_in_it_keeps_no_other_waiting(
    services: Services, make_settings: MakeSettings
) -> None:
    """Its long poll does not take the room of a queue that has tasks."""
    poll = 10
    with open_broker(make_settings(services, SQS_WAIT_TIME_SECONDS=str(poll))) as broker:
        other = f"{broker.settings.service_name}-other.fifo"
        broker.consume(broker.settings.task_queue, other, prefetch=1)
        broker.idle(0.5)
        broker.publish(*range(8), queue=other)
        for count in range(1, 9):
            broker.drain_to(count, poll - 1)
            broker.got[-1].ack()


def test_queues_take_turns(broker: Broker) -> None:
    """A queue that is always full of tasks does not keep another out."""
    other = f"{broker.settings.service_name}-other.fifo"
    broker.publish(*range(100))
    broker.publish(*range(10_000, 10_005), queue=other)
    broker.consume(broker.settings.task_queue, other, prefetch=2)
    done: list[int] = []
    while not set(done) >= set(range(10_000, 10_005)):
        broker.drain(lambda: broker.got)
        message = broker.got.pop()
        done.append(number(message))
        message.ack()
        assert len(done) < 2_000
        broker.publish(99 + len(done))


@pytest.mark.parametrize("body", ["not json", '{"body": "[1]", "headers": {}}', "{}"])
def test_what_is_no_celery_message_is_not_delivered_and_holds_up_nobody(broker: Broker, body: str) -> None:
    """It waits for the redrive policy, hidden."""
    sqs_client(broker.settings).send_message(
        QueueUrl=broker.queue.url, MessageBody=body, MessageGroupId="g", MessageDeduplicationId="d"
    )
    broker.publish(1)
    broker.consume(prefetch=1)
    broker.drain(lambda: broker.got)
    broker.got[0].ack()
    broker.wait_depth(0, 1)


def test_publishing_to_a_queue_that_is_not_there_says_so(broker: Broker) -> None:
    """As an error that names the queue."""
    with pytest.raises(ServiceError, match=r"nowhere\.fifo"):
        broker.publish(1, queue="nowhere.fifo")


def test_a_priority_is_ignored_and_said_so_once(broker: Broker) -> None:
    """A FIFO queue has none."""
    publishing._warn_of_priority.cache_clear()
    producer = broker.connection.Producer()
    with log_lines(publishing) as logs:
        for _ in range(2):
            headers = {"id": uuid.uuid4().hex, "task": "note"}
            producer.publish(
                [[1], {}, {}], routing_key=broker.settings.task_queue, priority=5, headers=headers
            )
    assert [entry["event"] for entry in logs] == ["publish.priority_ignored"]
    broker.wait_depth(2, 0)


def test_published_again_within_minutes_only_when_it_is_another_try(broker: Broker) -> None:
    """A lost answer is published again as one message; Celery's retry of a task is another."""
    for _ in range(2):
        broker.publish(1, id="same", retries=0)
    broker.publish(1, id="same", retries=1)
    broker.publish(1, id="same", retries=1, eta="2020-01-01T00:00:00+00:00")
    broker.wait_depth(3, 0)


def test_while_sqs_is_away_what_is_held_stays_and_what_is_done_is_deleted_later(
    services: Services, make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Receiving, extending and deleting go on by themselves when it is back."""
    with Proxy(services.environment["AWS_ENDPOINT_URL_SQS"]) as proxy:
        settings = make_settings(services, SQS_LEASE_SECONDS="20", AWS_ENDPOINT_URL_SQS=proxy.url)
        with open_broker(settings) as broker:
            broker.publish(1, 2)
            broker.consume()
            broker.drain_to(2)
            proxy.cut()
            broker.got[0].ack()
            broker.idle(2)
            proxy.restore()
            broker.publish(3)
            broker.drain_to(3)
            for message in broker.got[1:]:
                message.ack()
            broker.wait_depth(0, 0)
            assert len(broker.got) == 3


def test_connections_that_fell_silent_cost_no_lease(
    services: Services, make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does a return that hangs on one: what is held is extended in time on others."""
    lease = 9
    direct = services.environment["AWS_ENDPOINT_URL_SQS"]
    with Proxy(direct) as proxy:
        settings = make_settings(services, SQS_LEASE_SECONDS=str(lease), AWS_ENDPOINT_URL_SQS=proxy.url)
        with open_broker(settings) as broker:
            with monkeypatch.context() as patch:
                patch.setenv("AWS_ENDPOINT_URL_SQS", direct)
                others = SqsQueue(sqs_client(settings), settings.queue_url(settings.task_queue))
            broker.publish(1, 4)
            broker.publish(2, 3, message_group="a")
            broker.consume()
            broker.drain_to(3)
            # The heartbeat has connections of its own, open by now.
            broker.idle(lease / 2)
            proxy.silence()
            next(message for message in broker.got if number(message) == 4).reject()
            end = time.monotonic() + 2 * lease
            while time.monotonic() < end:
                broker.idle(0.5)
                lost = others.receive(wait_seconds=0, visibility_seconds=1)
                # The return is under way for longer than that message's lease.
                assert not [each for each in lost if "[[4]" not in each.body]
            leases = [broker.source.intake.delivered(message.delivery_tag) for message in broker.got[:3]]
            assert sorted(each.message.receive_count for each in leases if each) == [1, 1]
