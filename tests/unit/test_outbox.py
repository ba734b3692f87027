"""One entry of an ordered group is in flight at a time; other entries go in parallel."""

import threading
from dataclasses import replace

import pytest

from pipeline.bridge.offsets import OffsetTracker
from pipeline.bridge.outbox import OPEN_BATCH, REJECTED, Entry, HeldEvent, Outbox
from pipeline.bridge.translator import Rejection
from pipeline.jobs import JobPlan, NewJob
from pipeline.kafka import Partition, ReceivedRecord
from pipeline.telemetry.spans import Untraced
from pipeline.wire.taskmessage import TaskMessage

P = Partition("letters", 0)
JOB = NewJob(job_id="j", entity_id="ada", topic="letters", plan=JobPlan(stages={}), submitted_at=1)
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
    outbox = Outbox(2)
    for name in "abc":
        outbox.put(entry_named(name))
    assert bodies(outbox.take()) == ["a", "b"]
    assert bodies(outbox.take()) == ["c"]


def test_a_follower_waits_until_the_one_before_is_out() -> None:
    """Not in the same batch, and not in another one meanwhile."""
    outbox = Outbox(10)
    for name, group in (("a1", "a"), ("a2", "a"), ("b1", "b"), ("a3", "a")):
        outbox.put(entry_named(name, group, ordered=True))
    first = outbox.take()
    assert bodies(first) == ["a1", "b1"]
    outbox.out(first[:1])
    second = outbox.take()
    assert bodies(second) == ["a2"]
    outbox.out(second)
    assert bodies(outbox.take()) == ["a3"]


def test_a_group_that_is_empty_starts_again() -> None:
    """Its next entry is ready at once."""
    outbox = Outbox(10)
    outbox.put(entry_named("a1", "a", ordered=True))
    outbox.out(outbox.take())
    outbox.put(entry_named("a2", "a", ordered=True))
    assert bodies(outbox.take()) == ["a2"]


def test_one_group_in_two_queues_is_two_groups() -> None:
    """Order is a queue's."""
    outbox = Outbox(10)
    outbox.put(entry_named("a1", "a", ordered=True))
    outbox.put(entry_named("a2", "a", ordered=True, destination="other.fifo"))
    assert {bodies(outbox.take())[0], bodies(outbox.take())[0]} == {"a1", "a2"}


def test_less_than_a_batch_waits_a_moment_for_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """One request instead of three; a full one goes at once."""
    monkeypatch.setattr("pipeline.bridge.outbox.LINGER", 60.0)
    outbox, taken = Outbox(3), []
    thread = threading.Thread(target=lambda: taken.append(bodies(outbox.take())))
    thread.start()
    for name in "abc":
        assert taken == []
        outbox.put(entry_named(name))
    thread.join(10)
    assert taken == [["a", "b", "c"]]


def test_the_moment_passes() -> None:
    """Also when nothing comes that would wake anybody."""
    outbox = Outbox(10)
    outbox.put(entry_named("a"))
    assert bodies(outbox.take()) == ["a"]


@pytest.mark.timeout(30)
def test_nobody_waits_for_an_entry_that_waits_for_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """A group with followers goes at once, one after the other, and so does a full batch."""
    monkeypatch.setattr("pipeline.bridge.outbox.LINGER", 60.0)
    outbox = Outbox(4)
    for name in ("a1", "a2", "a3"):
        outbox.put(entry_named(name, "a", ordered=True))
    first = outbox.take()
    outbox.out(first)
    assert bodies(first + outbox.take()) == ["a1", "a2"]
    for name in "wxyz":
        outbox.put(entry_named(name, destination="other.fifo"))
    assert bodies(outbox.take()) == ["w", "x", "y", "z"]


def test_a_batch_has_one_destination_and_all_get_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A queue with much to send does not keep the others waiting, once they have waited for more."""
    monkeypatch.setattr("pipeline.bridge.outbox.LINGER", 0.0)
    outbox = Outbox(2)
    for n in range(4):
        outbox.put(entry_named(f"t{n}"))
    outbox.put(entry_named("x", destination="other.fifo"))
    outbox.put(entry_named("r", destination=REJECTED))
    destinations = [outbox.take()[0].destination for _ in range(4)]
    assert destinations == ["tasks.fifo", "other.fifo", REJECTED, "tasks.fifo"]


def test_an_entry_goes_once_the_job_that_it_begins_is_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others of its queue go at once, those of its group behind it, and it waits for no more of them."""
    monkeypatch.setattr("pipeline.bridge.outbox.LINGER", 60.0)
    outbox = Outbox(2)
    begins = entry_named("a1", "a", ordered=True)
    begins.content = replace(begins.content, job=JOB)
    for entry in (begins, *(entry_named(name, name[0], ordered=True) for name in ("a2", "b1", "c1"))):
        outbox.put(entry)
    assert bodies(outbox.take()) == ["b1", "c1"]
    assert outbox.take_unopened() == [begins]
    outbox.opened([begins])
    assert outbox.take() == [begins]
    outbox.out([begins])
    outbox.put(entry_named("d1"))
    assert bodies(outbox.take()) == ["a2", "d1"]


def test_jobs_are_opened_by_the_request() -> None:
    """However few entries are sent at once; closed, the rest is read from Kafka again."""
    outbox = Outbox(2)
    for n in range(OPEN_BATCH + 2):
        entry = entry_named(str(n))
        entry.content = replace(entry.content, job=JOB)
        outbox.put(entry)
    assert len(outbox.take_unopened()) == OPEN_BATCH
    outbox.close()
    assert outbox.take_unopened() == []


def test_closing_wakes_who_waits() -> None:
    """Nothing is given out after it."""
    outbox = Outbox(10)
    taken: list[list[Entry]] = []
    thread = threading.Thread(target=lambda: taken.append(outbox.take()))
    thread.start()
    outbox.close()
    thread.join(5)
    assert taken == [[]]
    outbox.put(entry_named("a"))
    assert outbox.take() == []


def test_an_event_is_out_with_the_last_of_its_entries() -> None:
    """Each stage that reads it has its own."""
    ticket = entry_named("a").held.ticket
    held = HeldEvent(ticket, 0, Untraced(None), 3)
    assert [held.release() for _ in range(3)] == [False, False, True]
