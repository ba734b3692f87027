"""Events run one at a time in a group, wait for a retry, and are withheld while partitions move."""

import threading
from dataclasses import replace

from pipeline.bridge.outbox import Entry
from pipeline.inline.runqueue import RunQueue
from pipeline.kafka import Partition
from tests.unit.test_outbox import JOB, P, bodies, entry_named


def test_what_is_put_back_comes_when_it_is_due_and_its_group_behind_it() -> None:
    """Others go meanwhile."""
    queue = RunQueue()
    for name, group in (("a1", "a"), ("a2", "a"), ("b1", "b")):
        queue.put(entry_named(name, group, ordered=True))
    (first,) = queue.take()
    queue.retry(first, 0.05)
    assert bodies(queue.take()) == ["b1"]
    assert queue.take() == [first]
    queue.out([first])
    assert bodies(queue.take()) == ["a2"]


def test_two_copies_of_a_task_go_one_by_one() -> None:
    """An unordered task is a group of its own."""
    queue = RunQueue()
    copies = [entry_named("a"), entry_named("a")]
    for entry in (*copies, entry_named("b")):
        queue.put(entry)
    assert bodies(queue.take() + queue.take()) == ["a", "b"]
    queue.out(copies[:1])
    assert queue.take() == copies[1:]


def test_while_it_is_held_nothing_is_given_out() -> None:
    """A waiter for released entries is notified when they return, finished or not."""
    queue = RunQueue()
    entries = [entry_named("a"), entry_named("b"), entry_named("c")]
    for entry in entries[:2]:
        queue.put(entry)
    assert queue.take() + queue.take() == entries[:2]
    queue.hold()
    queue.put(entries[2])
    assert not queue.wait_returned([P], 0)
    taken: list[list[Entry]] = []
    taker = threading.Thread(target=lambda: taken.append(queue.take()))
    taker.start()
    queue.out(entries[:1])
    assert not queue.wait_returned([P], 0.05)
    assert queue.wait_returned([Partition("letters", 1)], 0)
    queue.retry(entries[1], 60)
    assert queue.wait_returned([P], 0)
    assert taken == []
    queue.resume()
    taker.join(10)
    assert taken == [entries[2:]]


def test_what_has_another_job_now_waits_for_it_and_does_not_run() -> None:
    """It comes again once that job is open, and its group waits behind it until it is out."""
    queue = RunQueue()
    entries = [entry_named(name, "a", ordered=True) for name in ("a1", "a2")]
    for entry in entries:
        queue.put(entry)
    (first,) = queue.take()
    first.content = replace(first.content, job=JOB)
    first.opened = first.existed = True
    queue.reopen(first)
    assert queue.wait_returned([P], 0)
    assert queue.take_unopened() == [first]
    queue.opened([first])
    assert (queue.take(), first.existed) == ([first], False)
    assert not queue.wait_returned([P], 0)
    queue.out([first])
    assert queue.take() == entries[1:]


def test_what_comes_of_a_parked_partition_waits_and_all_else_goes() -> None:
    """Its earlier outcome is dropped, too; once unparked, the rest follows in order."""
    queue = RunQueue()
    queue.put(entry_named("early", "a", ordered=True))
    queue.park([P])
    assert queue.parked
    for name in ("a1", "a2"):
        queue.put(entry_named(name, "a", ordered=True))
    queue.put(entry_named("other", partition=Partition("letters", 1)))
    first = queue.take() + queue.take()
    assert bodies(first) == ["early", "other"]
    queue.out(first)
    queue.unpark()
    assert not queue.parked
    second = queue.take()
    assert bodies(second) == ["a1"]
    queue.out(second)
    assert bodies(queue.take()) == ["a2"]
