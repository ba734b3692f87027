"""One entry of an ordered group is in flight at a time; other entries go in parallel."""

import threading

import pytest

from pipeline.bridge.offsets import OffsetTracker
from pipeline.bridge.outbox import REJECTED, Entry, HeldEvent, Outbox
from pipeline.bridge.translator import Rejection
from pipeline.kafka import Partition, ReceivedRecord
from pipeline.telemetry.spans import Untraced
from pipeline.wire.taskmessage import TaskMessage

P = Partition("letters", 0)
RECORD = ReceivedRecord(topic="t", partition=0, offset=0, timestamp_ms=1, key=None, value=b"", headers=())


def entry_named(
    name: str,
    group: str = "",
    ordered: bool = False,
    destination: str = "tasks.fifo",
    partition: Partition = P,
) -> Entry:
    """An entry with a task of that name, which is its group unless it has one."""
    tracker = OffsetTracker()
    tracker.assign([partition])
    ticket = tracker.take(partition, 0)
    assert ticket
    task = TaskMessage(
        task_id=name,
        name=name,
        body=name,
        headers={},
        group_id=group or name,
        deduplication_id=name,
        queue=None,
    )
    return Entry(
        held=HeldEvent(ticket, 0, Untraced(None), 1),
        content=Rejection(record=RECORD, error="E", message="m"),
        destination=destination,
        task=None if destination == REJECTED else task,
        ordered=ordered,
    )


def bodies(entries: list[Entry]) -> list[str]:
    """The bodies of the entries' tasks."""
    return [entry.task.body for entry in entries if entry.task]


def test_unordered_entries_go_together() -> None:
    """Up to the limit, in order of arrival."""
    outbox = Outbox()
    for name in "abc":
        outbox.put(entry_named(name))
    assert bodies(outbox.take(2)) == ["a", "b"]
    assert bodies(outbox.take(2)) == ["c"]


def test_a_follower_waits_until_the_one_before_is_out() -> None:
    """Not in the same batch, and not in another one meanwhile."""
    outbox = Outbox()
    for name, group in (("a1", "a"), ("a2", "a"), ("b1", "b"), ("a3", "a")):
        outbox.put(entry_named(name, group, ordered=True))
    first = outbox.take(10)
    assert bodies(first) == ["a1", "b1"]
    outbox.out(first[:1])
    second = outbox.take(10)
    assert bodies(second) == ["a2"]
    outbox.out(second)
    assert bodies(outbox.take(10)) == ["a3"]


def test_a_group_that_is_empty_starts_again() -> None:
    """Its next entry is ready at once."""
    outbox = Outbox()
    outbox.put(entry_named("a1", "a", ordered=True))
    outbox.out(outbox.take(10))
    outbox.put(entry_named("a2", "a", ordered=True))
    assert bodies(outbox.take(10)) == ["a2"]


def test_one_group_in_two_queues_is_two_groups() -> None:
    """Order is a queue's."""
    outbox = Outbox()
    outbox.put(entry_named("a1", "a", ordered=True))
    outbox.put(entry_named("a2", "a", ordered=True, destination="other.fifo"))
    assert {bodies(outbox.take(10))[0], bodies(outbox.take(10))[0]} == {"a1", "a2"}


def test_less_than_a_batch_waits_a_moment_for_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """One request instead of three; a full one goes at once."""
    monkeypatch.setattr("pipeline.bridge.outbox.LINGER", 60.0)
    outbox, taken = Outbox(), []
    thread = threading.Thread(target=lambda: taken.append(bodies(outbox.take(3))))
    thread.start()
    for name in "abc":
        assert taken == []
        outbox.put(entry_named(name))
    thread.join(10)
    assert taken == [["a", "b", "c"]]


def test_the_moment_passes() -> None:
    """Also when nothing comes that would wake anybody."""
    outbox = Outbox()
    outbox.put(entry_named("a"))
    assert bodies(outbox.take(10)) == ["a"]


@pytest.mark.timeout(30)
def test_nobody_waits_for_an_entry_that_waits_for_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """A group with followers goes at once, one after the other, and so does a full batch."""
    monkeypatch.setattr("pipeline.bridge.outbox.LINGER", 60.0)
    outbox = Outbox()
    for name in ("a1", "a2", "a3"):
        outbox.put(entry_named(name, "a", ordered=True))
    first = outbox.take(10)
    outbox.out(first)
    assert bodies(first + outbox.take(10)) == ["a1", "a2"]
    for name in "wxyz":
        outbox.put(entry_named(name, destination="other.fifo"))
    assert bodies(outbox.take(4)) == ["w", "x", "y", "z"]


def test_a_batch_has_one_destination_and_all_get_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A queue with much to send does not keep the others waiting, once they have waited for more."""
    monkeypatch.setattr("pipeline.bridge.outbox.LINGER", 0.0)
    outbox = Outbox()
    for n in range(4):
        outbox.put(entry_named(f"t{n}"))
    outbox.put(entry_named("x", destination="other.fifo"))
    outbox.put(entry_named("r", destination=REJECTED))
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
    outbox.put(entry_named("a"))
    assert outbox.take(10) == []


def test_an_event_is_out_with_the_last_of_its_entries() -> None:
    """Each stage that reads it has its own."""
    ticket = entry_named("a").held.ticket
    held = HeldEvent(ticket, 0, Untraced(None), 3)
    assert [held.release() for _ in range(3)] == [False, False, True]
