"""A connection's buffer: order, a bound that stops the reader, and queues that close."""

import threading

from pipeline.control import transport as module
from pipeline.control.transport import MessageBuffer
from tests.processes import wait_until


def test_messages_are_taken_in_their_order() -> None:
    """The oldest first, each with its queue; the owner is told of each."""
    arrived: list[None] = []
    buffer = MessageBuffer(lambda: arrived.append(None))
    buffer.put("a", {"n": 1})
    buffer.put("b", {"n": 2})
    assert [buffer.take(), buffer.take(), buffer.take()] == [("a", {"n": 1}), ("b", {"n": 2}), None]
    assert len(arrived) == 2


def test_a_full_inbox_stops_its_reader_until_there_is_room() -> None:
    """Memory is bounded: the reader waits, and goes on when a message was taken."""
    buffer = MessageBuffer(lambda: None)
    for number in range(module.LIMIT):
        buffer.put("a", {"n": number})
    reader = threading.Thread(target=buffer.put, args=("a", {"n": "last"}), daemon=True)
    reader.start()
    reader.join(0.1)
    assert reader.is_alive()
    assert buffer.take() == ("a", {"n": 0})
    reader.join(5)
    assert not reader.is_alive()


def test_a_closed_queue_drops_and_holds_nobody_up() -> None:
    """Waiting messages are dropped, a waiting reader continues; reopened, it takes messages."""
    buffer = MessageBuffer(lambda: None)
    buffer.put("kept", {})
    for number in range(module.LIMIT - 1):
        buffer.put("a", {"n": number})
    reader = threading.Thread(target=buffer.put, args=("a", {}), daemon=True)
    reader.start()
    buffer.close("a")
    wait_until(lambda: not reader.is_alive(), "the reader goes on")
    buffer.put("a", {})
    assert [buffer.take(), buffer.take()] == [("kept", {}), None]
    buffer.open("a")
    buffer.put("a", {"n": 1})
    assert buffer.take() == ("a", {"n": 1})
