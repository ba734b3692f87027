"""A queue that enforces its quotas: what is over one waits, is not lost, and holds up nothing else."""

from functools import partial
from typing import Any

import pytest

from pipeline.errors import MessageRefusedError, ServiceUnavailableError
from pipeline.patience import Patience
from pipeline.sqs import OutgoingMessage, SqsQueue
from tests.fakes.limits import Clock
from tests.fakes.sqs import FakeSqs, QueueLimits


class World:
    """A queue behind the door to SQS."""

    def __init__(self, **limits: Any) -> None:
        self.clock = Clock()
        self.sqs = FakeSqs(QueueLimits(**limits), self.clock)
        client: Any = self.sqs
        self.queue = SqsQueue(client, "http://sqs/1/tasks.fifo")

    def receive(self) -> list[str]:
        """Receive up to ten; return their bodies."""
        return [message.body for message in self._receive()]

    def receive_all(self) -> list[str]:
        """Receive and delete until nothing comes; return the bodies."""
        bodies: list[str] = []
        while received := self._receive():
            bodies += [message.body for message in received]
            assert not any(self.queue.delete([message.receipt_handle for message in received]))
            self.clock.jump(1.0)
        return bodies

    def _receive(self) -> list[Any]:
        return self.queue.receive(wait_seconds=0, visibility_seconds=30)


def message(group: str, number: int) -> OutgoingMessage:
    """A message of a group."""
    name = f"{group}-{number}"
    return OutgoingMessage(body=name, group_id=group, deduplication_id=name)


def test_a_queue_with_too_many_messages_in_flight_gives_out_no_more() -> None:
    """And no error, until some are deleted or come back."""
    world = World(in_flight=12)
    world.queue.send([message(f"g{n}", 0) for n in range(30)])
    assert [len(world.receive()) for _ in range(3)] == [10, 2, 0]
    world.clock.jump(30.0)
    assert len(world.receive()) == 10


def test_groups_behind_the_window_are_not_seen() -> None:
    """One group's backlog holds up those sent after it, once the window is full of it."""
    world = World(window=20)
    world.queue.send([message("long", n) for n in range(25)], one_per_group=True)
    world.queue.send([message("other", 0)])
    assert world.receive() == [f"long-{n}" for n in range(10)]
    assert world.receive() == []
    world = World(window=30)
    world.queue.send([message("long", n) for n in range(25)], one_per_group=True)
    world.queue.send([message("other", 0)])
    assert world.receive() == [f"long-{n}" for n in range(10)]
    assert world.receive() == ["other-0"]


def test_a_handle_whose_time_is_over_deletes_nothing() -> None:
    """The message comes again."""
    world = World()
    world.queue.send([message("a", 0)])
    (received,) = world._receive()
    world.clock.jump(30.0)
    assert isinstance(world.queue.delete([received.receipt_handle])[0], MessageRefusedError)
    assert world.receive() == ["a-0"]


def test_messages_over_the_quota_of_requests_are_sent_later_once_each_and_in_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Three a second are taken; the others are repeated, and what was taken is not taken again."""
    world = World(requests=3)
    monkeypatch.setattr("pipeline.patience.FIRST_PAUSE", 1e-6)
    monkeypatch.setattr("pipeline.patience.LONGEST_PAUSE", 1e-6)
    messages = [message(f"g{n % 5}", n) for n in range(100)]
    tries: list[int] = []

    def send(batch: list[OutgoingMessage]) -> list[Any]:
        tries.append(len(batch))
        world.clock.jump(1.0)
        return list(world.queue.send(batch, one_per_group=True))

    assert Patience().each("send", messages, send) == [None] * 100
    assert len(tries) > 3
    received = world.receive_all()
    assert sorted(received) == sorted(each.body for each in messages)
    for group in range(5):
        own = [body for body in received if body.startswith(f"g{group}-")]
        assert own == [f"g{group}-{n}" for n in range(group, 100, 5)]


def test_a_group_over_its_quota_fails_alone() -> None:
    """The other entries of the same requests are taken."""
    world = World(requests=1e9, group_requests=2)
    messages = [message("hot", n) if n % 2 else message(f"g{n}", n) for n in range(20)]
    errors = world.queue.send(messages, one_per_group=True)
    failed = [each.body for each, error in zip(messages, errors, strict=True) if error is not None]
    assert failed == [f"hot-{n}" for n in range(5, 20, 2)]
    assert all(error is None or isinstance(error, ServiceUnavailableError) for error in errors)
    again = partial(world.queue.send, one_per_group=True)
    left = [each for each in messages if each.body in failed]
    while left:
        world.clock.jump(1.0)
        left = [each for each, error in zip(left, again(left), strict=True) if error is not None]
    received = world.receive_all()
    assert [body for body in received if body.startswith("hot")] == [f"hot-{n}" for n in range(1, 20, 2)]
    assert len(received) == 20
