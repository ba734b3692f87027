"""A connection's inbox: order, a bound that stops the reader, and queues that close."""

import threading

from pipeline.transport import inbox as module
from pipeline.transport.inbox import Inbox
from tests.processes import wait_until


def test_messages_are_taken_in_their_order() -> None:
    """The oldest first, each with its queue; the owner is told of each."""
    arrived: list[None] = []
    inbox = Inbox(lambda: arrived.append(None))
    inbox.put("a", {"n": 1})
    inbox.put("b", {"n": 2})
    assert [inbox.take(), inbox.take(), inbox.take()] == [("a", {"n": 1}), ("b", {"n": 2}), None]
    assert len(arrived) == 2


def test_a_full_inbox_stops_its_reader_until_there_is_room() -> None:
    """Memory is bounded: the reader waits, and goes on when a message was taken."""
    inbox = Inbox(lambda: None)
    for number in range(module.LIMIT):
        inbox.put("a", {"n": number})
    reader = threading.Thread(target=inbox.put, args=("a", {"n": "last"}), daemon=True)
    reader.start()
    reader.join(0.1)
    assert reader.is_alive()
    assert inbox.take() == ("a", {"n": 0})
    reader.join(5)
    assert not reader.is_alive()


def test_a_closed_queue_drops_and_holds_nobody_up() -> None:
    """What waited is gone, a waiting reader goes on, others keep theirs; opened again it takes messages."""
    inbox = Inbox(lambda: None)
    inbox.put("kept", {})
    for number in range(module.LIMIT - 1):
        inbox.put("a", {"n": number})
    reader = threading.Thread(target=inbox.put, args=("a", {}), daemon=True)
    reader.start()
    inbox.close("a")
    wait_until(lambda: not reader.is_alive(), "the reader goes on", 5)
    inbox.put("a", {})
    assert [inbox.take(), inbox.take()] == [("kept", {}), None]
    inbox.open("a")
    inbox.put("a", {"n": 1})
    assert inbox.take() == ("a", {"n": 1})
