"""A bridge begins with a partition only when it is known what the last one left."""

from collections.abc import Collection, Mapping
from typing import Any

import pytest
from botocore.exceptions import ClientError

from consumers.handover import EMPTY_FOR, LOOK_EVERY, RAN_HERE, Emptied, Handover
from pipeline.errors import ServiceUnavailableError
from pipeline.kafka import Partition

A, B = Partition("letters", 0), Partition("letters", 1)


class Group:
    """A group's committed offsets, with their notes."""

    def __init__(self, committed: dict[Partition, tuple[int, str]]) -> None:
        self.offsets = committed
        self.away = False

    def committed(self, partitions: Collection[Partition]) -> dict[Partition, tuple[int, str]]:
        if self.away:
            raise ServiceUnavailableError("away")
        return {at: self.offsets[at] for at in partitions if at in self.offsets}

    def commit(self, offsets: Mapping[Partition, int], note: str = "") -> None:
        self.offsets |= {at: (offset, note) for at, offset in offsets.items()}


class Queues:
    """SQS's client; the number of messages of the one queue, None while there is none."""

    def __init__(self, messages: int | None) -> None:
        self.messages = messages
        self.now = 0.0

    def get_queue_attributes(self, **_: Any) -> Any:
        if self.messages is None:
            raise ClientError({"Error": {"Code": "QueueDoesNotExist"}}, "GetQueueAttributes")
        return {"Attributes": {"ApproximateNumberOfMessagesNotVisible": str(self.messages)}}

    def handover(self) -> Handover:
        client: Any = self
        return Handover(Emptied(client, ["https://sqs/1/tasks.fifo"], lambda: self.now))

    def pass_time(self, handover: Handover, group: Group, seconds: float) -> list[bool]:
        """What it says at each look of that time."""
        answers = []
        end = self.now + seconds
        while self.now < end:
            self.now += LOOK_EVERY
            answers.append(handover.is_over(group))
        return answers


def test_one_that_sends_takes_the_note_away_first() -> None:
    """Before it may send; the offset stays. What has no note, or no offset, needs nothing."""
    group = Group({A: (7, RAN_HERE), B: (3, "")})
    handover = Handover(None)
    handover.assigned([A, B, Partition("letters", 2)])
    group.away = True
    assert not handover.is_over(group)
    assert group.offsets[A] == (7, RAN_HERE)
    group.away = False
    assert handover.is_over(group)
    assert group.offsets == {A: (7, ""), B: (3, "")}
    assert handover.note == ""


def test_where_stages_ran_before_nothing_is_waited_for() -> None:
    """Whatever the queues hold: it is of others."""
    group, queues = Group({A: (7, RAN_HERE)}), Queues(messages=5)
    handover = queues.handover()
    handover.assigned([A])
    assert handover.is_over(group)
    assert handover.note == RAN_HERE


@pytest.mark.parametrize("offsets", [{A: (7, "")}, {}])
def test_what_was_sent_must_be_through(offsets: dict[Partition, tuple[int, str]]) -> None:
    """The queues must be empty for as long as SQS's counts may be old, without a break."""
    group, queues = Group(offsets), Queues(messages=1)
    handover = queues.handover()
    handover.assigned([A])
    assert not any(queues.pass_time(handover, group, 300))
    queues.messages = 0
    assert not any(queues.pass_time(handover, group, EMPTY_FOR - LOOK_EVERY))
    queues.messages = 1
    assert not any(queues.pass_time(handover, group, LOOK_EVERY))
    queues.messages = 0
    assert not any(queues.pass_time(handover, group, EMPTY_FOR))
    assert any(queues.pass_time(handover, group, LOOK_EVERY))
    assert handover.is_over(group)
    handover.assigned([B])
    assert not handover.is_over(group), "what comes later is waited for anew"


def test_without_queues_nothing_can_be_left_in_them() -> None:
    """They are not there: it begins."""
    handover = Queues(messages=None).handover()
    handover.assigned([A])
    assert handover.is_over(Group({}))


def test_what_is_given_away_is_waited_for_no_more() -> None:
    """Only what this bridge has counts."""
    group = Group({A: (7, RAN_HERE), B: (3, "")})
    handover = Queues(messages=1).handover()
    handover.assigned([A, B])
    assert not handover.is_over(group)
    handover.gone([B])
    assert handover.is_over(group)
