"""The behaviour of SQS that this project relies on, on the embedded and on the local services."""

import os
import time
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from pipeline.clock import boottime
from pipeline.errors import MessageRefusedError, ServiceRefusedError, ServiceUnavailableError
from pipeline.services.environment import Services
from pipeline.settings import Settings
from pipeline.sqs import MAX_MESSAGE_BYTES, OutgoingMessage, ReceivedMessage, SqsQueue, sqs_client
from pipeline.sqs.queues import queue_attributes
from tests.conftest import MakeSettings
from tests.processes import wait_until

if TYPE_CHECKING:
    from mypy_boto3_sqs.literals import QueueAttributeNameType

FIFO: dict["QueueAttributeNameType", str] = {
    "FifoQueue": "true",
    "FifoThroughputLimit": "perMessageGroupId",
    "DeduplicationScope": "messageGroup",
    "VisibilityTimeout": "30",
}


@pytest.fixture
def settings(services: Services, make_settings: MakeSettings) -> Settings:
    return make_settings(services)


@pytest.fixture
def queue(settings: Settings) -> Iterator[SqsQueue]:
    client = sqs_client(settings)
    client.create_queue(QueueName=settings.task_queue, Attributes=FIFO)
    yield SqsQueue(client, settings.sqs_task_queue_url)
    client.delete_queue(QueueUrl=settings.sqs_task_queue_url)


def _messages(count: int, *, group: str | None = None, size: int = 1) -> list[OutgoingMessage]:
    return [
        OutgoingMessage(
            body=str(n).ljust(size), group_id=group or f"group-{n}", deduplication_id=uuid.uuid4().hex
        )
        for n in range(count)
    ]


def _receive(queue: SqsQueue, max_messages: int = 10, visibility: int = 30) -> list[ReceivedMessage]:
    return queue.receive(max_messages, wait_seconds=0, visibility_seconds=visibility)


def _drain(queue: SqsQueue, count: int) -> list[ReceivedMessage]:
    received: list[ReceivedMessage] = []
    wait_until(lambda: len(received.extend(_receive(queue)) or received) >= count, "the messages")  # type: ignore[func-returns-value]
    return received


def test_a_message_arrives_as_it_was_sent(queue: SqsQueue) -> None:
    """Body, group, deduplication id and attributes come through, with count and times."""
    message = OutgoingMessage(
        body='{"text": "größer 漢字 🦊"}',
        group_id="entity/1",
        deduplication_id="d-1",
        attributes={"reason": "größer", "attempts": "3"},
    )
    before = boottime()
    assert queue.send([message]) == [None]
    [received] = _receive(queue)
    assert (received.body, received.group_id, received.deduplication_id) == (
        message.body,
        message.group_id,
        message.deduplication_id,
    )
    assert received.attributes == message.attributes
    assert received.receive_count == 1
    assert abs(received.sent_at - time.time()) < 30
    assert before <= received.requested_at <= boottime()


def test_any_number_of_messages_goes_in_one_call(queue: SqsQueue) -> None:
    """More than a request holds are sent in several; each has its answer."""
    assert queue.send(_messages(25)) == [None] * 25
    assert queue.send([]) == []
    assert {message.body for message in _drain(queue, 25)} == {str(n) for n in range(25)}


def test_large_messages_do_not_share_a_request(queue: SqsQueue) -> None:
    """Ten messages of 200 KiB are over the limit of one request; all arrive."""
    assert queue.send(_messages(10, size=200 * 1024)) == [None] * 10
    assert len(_drain(queue, 10)) == 10


def test_a_message_too_large_is_refused_alone(queue: SqsQueue) -> None:
    """Its answer names the limit; the messages beside it arrive."""
    messages = _messages(3)
    messages[1] = OutgoingMessage(body="x" * (MAX_MESSAGE_BYTES + 1), group_id="g", deduplication_id="d")
    first, second, third = queue.send(messages)
    assert (first, third) == (None, None)
    assert isinstance(second, MessageRefusedError)
    assert str(MAX_MESSAGE_BYTES) in str(second)
    assert len(_drain(queue, 2)) == 2


def test_an_entry_that_sqs_refuses_leaves_the_others(queue: SqsQueue) -> None:
    """One entry over the queue's own limit is refused; the others of its request are delivered."""
    messages = _messages(3)
    messages[1] = OutgoingMessage(body="bad \x00", group_id="g", deduplication_id="d")
    first, second, third = queue.send(messages)
    assert (first, third) == (None, None)
    assert isinstance(second, MessageRefusedError)
    assert sorted(message.body for message in _drain(queue, 2)) == ["0", "2"]


def test_the_same_deduplication_id_is_one_message(queue: SqsQueue) -> None:
    """Sending again after a lost reply is accepted and makes no second message."""
    [message] = _messages(1)
    assert queue.send([message, message]) == [None, None]
    assert queue.send([message]) == [None]
    [received] = _receive(queue)
    assert queue.delete([received.receipt_handle]) == [None]
    assert queue.send([message]) == [None]
    assert _receive(queue) == []


def test_a_group_waits_for_its_head(queue: SqsQueue) -> None:
    """While a message of a group is in flight, no other of the group is received; other groups are."""
    queue.send(_messages(3, group="same"), one_per_group=True)
    [head] = _receive(queue, 1)
    queue.send(_messages(1, group="other"))
    assert [message.group_id for message in _receive(queue)] == ["other"]
    assert queue.delete([head.receipt_handle]) == [None]
    assert [message.body for message in _receive(queue)] == ["1", "2"]


def test_one_entry_of_a_group_a_request_keeps_the_order(queue: SqsQueue) -> None:
    """Many messages of few groups arrive, each group in the order sent."""
    messages = [
        OutgoingMessage(body=f"{n:02}", group_id=f"group-{n % 3}", deduplication_id=f"d-{n}")
        for n in range(30)
    ]
    assert queue.send(messages, one_per_group=True) == [None] * 30
    seen: dict[str, list[str]] = {}
    while received := _receive(queue):
        for message in received:
            seen.setdefault(message.group_id, []).append(message.body)
        queue.delete([message.receipt_handle for message in received])
    assert seen == {f"group-{group}": [f"{n:02}" for n in range(group, 30, 3)] for group in range(3)}


def test_a_message_not_deleted_comes_back(queue: SqsQueue) -> None:
    """After its visibility it is delivered again: a higher count, a new handle, the same id."""
    queue.send(_messages(1))
    [first] = _receive(queue, visibility=1)
    again: list[ReceivedMessage] = []
    wait_until(lambda: bool(again.extend(_receive(queue)) or again), "the message again")  # type: ignore[func-returns-value]
    assert boottime() - first.requested_at > 0.9
    assert again[0].receive_count == 2
    assert again[0].message_id == first.message_id
    assert again[0].receipt_handle != first.receipt_handle
    assert again[0].sent_at == first.sent_at


def test_visibility_is_extended_and_released(queue: SqsQueue) -> None:
    """A longer visibility holds a message beyond its first; zero gives it back at once."""
    queue.send(_messages(2))
    held, released = _receive(queue, visibility=5)
    changes = [(held.receipt_handle, 60), (released.receipt_handle, 0)]
    assert queue.change_visibility(changes) == [None, None]
    time.sleep(5.2)  # the first visibility runs out: there is nothing to wait for but the time itself
    assert [message.message_id for message in _receive(queue)] == [released.message_id]


def test_many_deletes_and_changes_are_answered_one_by_one(queue: SqsQueue) -> None:
    """More than a request holds; a handle that is no longer good is refused, the others are done."""
    queue.send(_messages(24))
    handles = [message.receipt_handle for message in _drain(queue, 24)]
    assert queue.change_visibility([(handle, 60) for handle in handles]) == [None] * 24
    assert queue.delete(handles[:1]) == [None]
    answers = queue.change_visibility([(handle, 60) for handle in handles])
    assert isinstance(answers[0], MessageRefusedError)
    assert answers[1:] == [None] * 23
    assert queue.delete(handles[1:]) == [None] * 23
    assert _receive(queue) == []


def test_a_receive_repeated_with_its_attempt_id_is_accepted(queue: SqsQueue) -> None:
    """The id is passed on; what it gives back is SQS's matter, nothing is lost."""
    queue.send(_messages(1))
    attempt = uuid.uuid4().hex
    first = queue.receive(10, wait_seconds=0, visibility_seconds=1, attempt_id=attempt)
    queue.receive(10, wait_seconds=0, visibility_seconds=1, attempt_id=attempt)
    assert len(first) == 1
    wait_until(lambda: bool(_receive(queue)), "the message again")


def test_a_receive_waits_for_a_message(queue: SqsQueue) -> None:
    """An empty queue is asked with a long poll, not in a loop."""
    started = time.monotonic()
    assert queue.receive(10, wait_seconds=1, visibility_seconds=30) == []
    assert time.monotonic() - started > 0.8


def test_depth_counts_what_waits_and_what_is_in_flight(queue: SqsQueue) -> None:
    """Waiting and received messages are counted apart."""
    queue.send(_messages(5))
    _receive(queue, 2)
    wait_until(lambda: (queue.depth().available, queue.depth().in_flight) == (3, 2), "the depth")
    assert queue.depth().delayed == 0


def test_the_attributes_of_a_queue(settings: Settings, queue: SqsQueue) -> None:
    """Under SQS's own names."""
    configuration = queue_attributes(sqs_client(settings), queue.url) or {}
    assert configuration["FifoQueue"] == "true"
    assert configuration["VisibilityTimeout"] == "30"
    assert configuration["QueueArn"].endswith(f":{queue.name}")


def test_a_missing_queue_is_refused(settings: Settings) -> None:
    """Every call says so with the queue's name and the mend, and is not tried again."""
    queue = SqsQueue(sqs_client(settings), settings.queue_url("absent.fifo"))
    for call in (queue.depth, lambda: _receive(queue)):
        with pytest.raises(ServiceRefusedError, match=r"absent\.fifo.*pipeline provision"):
            call()
    answers = queue.send(_messages(2)) + queue.delete(["h"]) + queue.change_visibility([("h", 0)])
    assert [type(answer) for answer in answers] == [ServiceRefusedError] * 4


def test_an_endpoint_that_is_away_is_unavailable(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody listens: the answer of every entry says to ask again, within seconds."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_SQS", "http://127.0.0.1:1")
    queue = SqsQueue(sqs_client(settings), settings.sqs_task_queue_url)
    started = time.monotonic()
    assert [type(answer) for answer in queue.send(_messages(2))] == [ServiceUnavailableError] * 2
    with pytest.raises(ServiceUnavailableError):
        _receive(queue)
    assert time.monotonic() - started < 60


def test_a_forked_child_has_a_client_of_its_own(queue: SqsQueue, settings: Settings) -> None:
    """The parent's client is not used in a child; both send."""
    assert queue.send(_messages(1)) == [None]
    parents = id(sqs_client(settings))
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            own = sqs_client(settings)
            sent = SqsQueue(own, queue.url).send(
                [OutgoingMessage(body="c", group_id="c", deduplication_id="c")]
            )
            status = 0 if id(own) != parents and sent == [None] else 1
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert sqs_client(settings) is sqs_client(settings)
    assert len(_drain(queue, 2)) == 2
