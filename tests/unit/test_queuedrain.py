"""A bridge that runs stages itself starts when nothing sent to SQS can be left there."""

from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

from pipeline.inline.queuedrain import CHECK_EVERY, EMPTY_FOR, QueueDrain


class Queue:
    """SQS's client with one queue, and the time."""

    def __init__(self) -> None:
        #: None: there is no queue.
        self.messages: int | None = 0
        self.away = False
        self.now = 0.0
        client: Any = self
        self.drain = QueueDrain(client, ["https://sqs/1/tasks.fifo"], lambda: self.now)

    def get_queue_attributes(self, **_: Any) -> Any:
        if self.away:
            raise EndpointConnectionError(endpoint_url="https://sqs")
        if self.messages is None:
            raise ClientError({"Error": {"Code": "QueueDoesNotExist"}}, "GetQueueAttributes")
        return {"Attributes": {"ApproximateNumberOfMessagesNotVisible": str(self.messages)}}

    def passes(self, seconds: float) -> bool:
        """Whether it began within that time."""
        end = self.now + seconds
        while self.now < end:
            self.now += CHECK_EVERY
            if self.drain.is_done():
                return True
        return False


@pytest.fixture
def queue() -> Queue:
    return Queue()


def test_nobody_waits_who_did_not_ask(queue: Queue) -> None:
    """No look is made either."""
    queue.away = True
    assert queue.drain.is_done()


def test_it_must_be_empty_for_as_long_as_counts_may_be_old(queue: Queue) -> None:
    """Without a break: a message seen again, or no answer, and the time begins anew."""
    queue.messages = 1
    queue.drain.restart()
    assert not queue.passes(300)
    for disturb in ("messages", "away"):
        queue.messages = 0
        assert not queue.passes(EMPTY_FOR)
        setattr(queue, disturb, 1)
        assert not queue.passes(CHECK_EVERY)
        setattr(queue, disturb, 0)
    assert not queue.passes(EMPTY_FOR)
    assert queue.passes(CHECK_EVERY)


def test_who_asks_again_waits_anew(queue: Queue) -> None:
    """Partitions that come later may have been another's that sends."""
    queue.drain.restart()
    assert not queue.passes(EMPTY_FOR - CHECK_EVERY)
    queue.drain.restart()
    assert not queue.passes(EMPTY_FOR - CHECK_EVERY)
    assert queue.passes(2 * CHECK_EVERY)


def test_in_a_queue_that_is_not_there_nothing_is_left(queue: Queue) -> None:
    """It begins at the first look."""
    queue.messages = None
    queue.drain.restart()
    assert queue.passes(CHECK_EVERY)
