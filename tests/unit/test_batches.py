"""Items from many threads, gathered into batches."""

import threading

from pipeline.transport.batches import Batches
from tests.processes import wait_until


def _take_in_thread(batches: Batches[int]) -> tuple[threading.Thread, list[list[int]]]:
    taken: list[list[int]] = []

    def work() -> None:
        while batch := batches.take():
            taken.append(batch)

    thread = threading.Thread(target=work)
    thread.start()
    return thread, taken


def test_a_lone_item_is_not_held_back() -> None:
    """A single item is handled at once, however long a batch may wait."""
    batches: Batches[int] = Batches(most=10, enough=10, linger=60)
    batches.put(1)
    assert batches.take() == [1]


def test_a_stream_is_gathered() -> None:
    """While items come fast, a batch waits until there are enough."""
    batches: Batches[int] = Batches(most=10, enough=5, linger=60)
    for _ in range(100):
        for item in range(5):
            batches.put(item)
        batches.take()
    thread, taken = _take_in_thread(batches)
    for item in range(5):
        batches.put(item)
    batches.end()
    thread.join(10)
    assert [item for batch in taken for item in batch] == [0, 1, 2, 3, 4]
    assert len(taken) == 1


def test_a_stream_waits_for_nobody_in_a_hurry() -> None:
    """An item that somebody waits for takes those before it along at once."""
    batches: Batches[int] = Batches(most=10, enough=5, linger=60)
    for _ in range(100):
        for item in range(5):
            batches.put(item)
        batches.take()
    thread, taken = _take_in_thread(batches)
    batches.put(1)
    batches.put(2, hurry=True)
    wait_until(lambda: sum(map(len, taken)) == 2, "both are taken")
    batches.end()
    thread.join(10)


def test_an_item_that_expects_more_waits_until_it_is_told_to_hurry() -> None:
    """However few came lately: the next of its lane runs."""
    batches: Batches[int] = Batches(most=10, enough=5, linger=1.5)
    thread, taken = _take_in_thread(batches)
    batches.put(1, more=True)
    batches.put(2, more=True)
    assert not taken
    batches.hurry_up()
    wait_until(lambda: taken == [[1, 2]], "both are taken together")
    batches.put(3)
    wait_until(lambda: taken == [[1, 2], [3]], "nothing of it lasts")
    batches.end()
    thread.join(10)


def test_items_put_together_are_one_batch() -> None:
    """Though a thread waits for the first of them."""
    batches: Batches[int] = Batches(most=10, enough=10, linger=60)
    thread, taken = _take_in_thread(batches)
    batches.put_all(range(7))
    wait_until(lambda: taken == [list(range(7))], "all are taken")
    batches.end()
    thread.join(10)


def test_a_batch_has_at_most_so_many() -> None:
    """A backlog is taken in batches of the largest size, in the order it came."""
    batches: Batches[int] = Batches(most=4, enough=2, linger=0)
    for item in range(10):
        batches.put(item)
    assert [batches.take(), batches.take(), batches.take()] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_what_is_left_at_the_end_is_taken() -> None:
    """The end loses nothing, and is told to each thread that takes."""
    batches: Batches[int] = Batches(most=2, enough=2, linger=60)
    for item in range(3):
        batches.put(item)
    batches.end()
    assert [batches.take() for _ in range(4)] == [[0, 1], [2], [], []]


def test_every_item_is_taken_once() -> None:
    """Many threads put and take at the same time, and nothing is lost or taken twice."""
    batches: Batches[int] = Batches(most=7, enough=5, linger=0.001)
    takers = [_take_in_thread(batches) for _ in range(4)]

    def put(start: int) -> None:
        for item in range(start, start + 500):
            batches.put(item)

    putters = [threading.Thread(target=put, args=(start,)) for start in range(0, 2000, 500)]
    for thread in putters:
        thread.start()
    for thread in putters:
        thread.join(10)
    batches.end()
    for thread, _ in takers:
        thread.join(10)
    assert sorted(item for _, taken in takers for batch in taken for item in batch) == list(range(2000))


def test_a_thread_that_waits_is_woken() -> None:
    """An item that comes later is taken at once by a thread that waits already."""
    batches: Batches[int] = Batches(most=10, enough=10, linger=60)
    thread, taken = _take_in_thread(batches)
    batches.put(1)
    wait_until(lambda: taken, "the item is taken")
    batches.end()
    thread.join(10)
    assert taken == [[1]]


def test_the_end_reaches_threads_that_wait_behind_one_that_gathers() -> None:
    """The last batch is taken by one of them; the others have nothing left to wait for."""
    batches: Batches[int] = Batches(most=10, enough=10, linger=60)
    takers = [_take_in_thread(batches) for _ in range(4)]
    batches.put(1, more=True)
    wait_until(lambda: batches._gathers, "one of them gathers")
    batches.end()
    for thread, _ in takers:
        thread.join(10)
    assert not any(thread.is_alive() for thread, _ in takers)
    assert [batch for _, taken in takers for batch in taken] == [[1]]
