"""Of an ordered group one entry is out at a time; everything else goes as fast as it can."""

import threading

import pytest

from consumers.offsets import OffsetTracker
from consumers.outbox import REJECTED, Entry, Outbox, Rejection, SharedTicket
from pipeline.kafka import Message, Partition
from pipeline.sqs import OutgoingMessage

P = Partition("letters", 0)


def _entry(
    name: str,
    group: str = "",
    ordered: bool = False,
    destination: str = "tasks.fifo",
    partition: Partition = P,
) -> Entry:
    tracker = OffsetTracker()
    tracker.assign([partition])
    ticket = tracker.take(partition, 0)
    assert ticket
    message = Message(topic="t", partition=0, offset=0, timestamp_ms=1, key=None, value=b"", headers=())
    task = OutgoingMessage(body=name, group_id=group or name, deduplication_id=name)
    return Entry(
        source=message,
        event=None,
        ticket=SharedTicket(ticket, 0),
        job_id=None,
        job=None,
        destination=destination,
        task=None if destination == REJECTED else task,
        ordered=ordered,
        rejection=Rejection(error="E", message="m") if destination == REJECTED else None,
    )


def _bodies(entries: list[Entry]) -> list[str]:
    return [entry.task.body for entry in entries if entry.task]


def test_unordered_entries_go_together() -> None:
    """Up to the limit, in order of arrival."""
    outbox = Outbox()
    for name in "abc":
        outbox.put(_entry(name))
    assert _bodies(outbox.take(2)) == ["a", "b"]
    assert _bodies(outbox.take(2)) == ["c"]


def test_a_follower_waits_until_the_one_before_is_out() -> None:
    """Not in the same batch, and not in another one meanwhile."""
    outbox = Outbox()
    for name, group in (("a1", "a"), ("a2", "a"), ("b1", "b"), ("a3", "a")):
        outbox.put(_entry(name, group, ordered=True))
    first = outbox.take(10)
    assert _bodies(first) == ["a1", "b1"]
    outbox.out(first[:1])
    second = outbox.take(10)
    assert _bodies(second) == ["a2"]
    outbox.out(second)
    assert _bodies(outbox.take(10)) == ["a3"]


def test_a_group_that_is_empty_starts_again() -> None:
    """Its next entry is ready at once."""
    outbox = Outbox()
    outbox.put(_entry("a1", "a", ordered=True))
    outbox.out(outbox.take(10))
    outbox.put(_entry("a2", "a", ordered=True))
    assert _bodies(outbox.take(10)) == ["a2"]


def test_one_group_in_two_queues_is_two_groups() -> None:
    """Order is a queue's."""
    outbox = Outbox()
    outbox.put(_entry("a1", "a", ordered=True))
    outbox.put(_entry("a2", "a", ordered=True, destination="other.fifo"))
    assert {_bodies(outbox.take(10))[0], _bodies(outbox.take(10))[0]} == {"a1", "a2"}


def test_less_than_a_batch_waits_a_moment_for_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """One request instead of three; a full one goes at once."""
    monkeypatch.setattr("consumers.outbox.LINGER", 60.0)
    outbox, taken = Outbox(), []
    thread = threading.Thread(target=lambda: taken.append(_bodies(outbox.take(3))))
    thread.start()
    for name in "abc":
        assert taken == []
        outbox.put(_entry(name))
    thread.join(10)
    assert taken == [["a", "b", "c"]]


def test_the_moment_passes() -> None:
    """Also when nothing comes that would wake anybody."""
    outbox = Outbox()
    outbox.put(_entry("a"))
    assert _bodies(outbox.take(10)) == ["a"]


@pytest.mark.timeout(30)
def test_nobody_waits_for_an_entry_that_waits_for_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """A group with followers goes at once, one after the other, and so does a full batch."""
    monkeypatch.setattr("consumers.outbox.LINGER", 60.0)
    outbox = Outbox()
    for name in ("a1", "a2", "a3"):
        outbox.put(_entry(name, "a", ordered=True))
    first = outbox.take(10)
    outbox.out(first)
    assert _bodies(first + outbox.take(10)) == ["a1", "a2"]
    for name in "wxyz":
        outbox.put(_entry(name, destination="other.fifo"))
    assert _bodies(outbox.take(4)) == ["w", "x", "y", "z"]


def test_a_batch_has_one_destination_and_all_get_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A queue with much to send does not keep the others waiting, once they have waited for more."""
    monkeypatch.setattr("consumers.outbox.LINGER", 0.0)
    outbox = Outbox()
    for n in range(4):
        outbox.put(_entry(f"t{n}"))
    outbox.put(_entry("x", destination="other.fifo"))
    outbox.put(_entry("r", destination=REJECTED))
    destinations = [outbox.take(2)[0].destination for _ in range(4)]
    assert destinations == ["tasks.fifo", "other.fifo", REJECTED, "tasks.fifo"]


def test_closing_wakes_who_waits() -> None:
    """Nothing is given out after it."""
    outbox = Outbox()
    taken: list[list[Entry]] = []
    thread = threading.Thread(target=lambda: taken.append(outbox.take(10)))
    thread.start()
    outbox.close()
    thread.join(5)
    assert taken == [[]]
    outbox.put(_entry("a"))
    assert outbox.take(10) == []


def test_an_event_is_out_with_the_last_of_its_tasks() -> None:
    """Each stage that reads it has its own task."""
    ticket = _entry("a").ticket
    ticket.share(3)
    assert [ticket.release() for _ in range(3)] == [False, False, True]


def test_what_is_put_back_comes_when_it_is_due_and_its_group_behind_it() -> None:
    """Others go meanwhile."""
    outbox = Outbox()
    for name, group in (("a1", "a"), ("a2", "a"), ("b1", "b")):
        outbox.put(_entry(name, group, ordered=True))
    (first,) = outbox.take(1)
    outbox.later(first, 0.05)
    assert _bodies(outbox.take(1)) == ["b1"]
    assert outbox.take(1) == [first]
    outbox.out([first])
    assert _bodies(outbox.take(1)) == ["a2"]


def test_two_copies_of_a_task_go_one_by_one_where_every_group_does() -> None:
    """An unordered task is a group of its own."""
    outbox = Outbox(every_group=True)
    copies = [_entry("a"), _entry("a")]
    for entry in (*copies, _entry("b")):
        outbox.put(entry)
    assert _bodies(outbox.take(10)) == ["a", "b"]
    outbox.out(copies[:1])
    assert outbox.take(10) == copies[1:]


def test_while_it_is_held_nothing_is_given_out() -> None:
    """Who waits for what is out is told when it is back, out or not."""
    outbox = Outbox()
    entries = [_entry("a"), _entry("b"), _entry("c")]
    for entry in entries[:2]:
        outbox.put(entry)
    outbox.take(2)
    outbox.hold()
    outbox.put(entries[2])
    assert not outbox.wait_returned([P], 0)
    taken: list[list[Entry]] = []
    taker = threading.Thread(target=lambda: taken.append(outbox.take(1)))
    taker.start()
    outbox.out(entries[:1])
    assert not outbox.wait_returned([P], 0.05)
    assert outbox.wait_returned([Partition("letters", 1)], 0)
    outbox.later(entries[1], 60)
    assert outbox.wait_returned([P], 0)
    assert taken == []
    outbox.go_on()
    taker.join(10)
    assert taken == [entries[2:]]


def test_what_comes_of_a_parked_partition_waits_and_all_else_goes() -> None:
    """What came of it before goes too; unparked, the rest follows in its order."""
    outbox = Outbox()
    outbox.put(_entry("early", "a", ordered=True))
    outbox.park([P])
    assert outbox.parked
    for name in ("a1", "a2"):
        outbox.put(_entry(name, "a", ordered=True))
    outbox.put(_entry("other", partition=Partition("letters", 1)))
    first = outbox.take(10)
    assert _bodies(first) == ["early", "other"]
    outbox.out(first)
    outbox.unpark()
    assert not outbox.parked
    second = outbox.take(10)
    assert _bodies(second) == ["a1"]
    outbox.out(second)
    assert _bodies(outbox.take(10)) == ["a2"]
