"""The wake-up: one byte at most, from any thread, and nothing after its end."""

import os
import threading

import pytest

from pipeline.transport.wakeup import WakeupPipe


def test_a_wakeup_wakes_until_it_is_cleared() -> None:
    """Set twice is set once."""
    wakeup = WakeupPipe()
    assert not wakeup.wait(0)
    wakeup.set()
    wakeup.set()
    assert wakeup.wait(0)
    wakeup.clear()
    assert not wakeup.wait(0)
    wakeup.close()


def test_another_thread_ends_a_wait() -> None:
    """Without a timeout too."""
    wakeup = WakeupPipe()
    timer = threading.Timer(0.05, wakeup.set)
    timer.start()
    assert wakeup.wait(None)
    timer.join()
    wakeup.close()


def test_nothing_is_written_after_the_end() -> None:
    """The numbers of its descriptors may be another file's by then."""
    wakeup = WakeupPipe()
    number = wakeup._write_end
    wakeup.close()
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    os.dup2(writing, number)
    wakeup.set()
    wakeup.clear()
    wakeup.close()
    with pytest.raises(BlockingIOError):
        os.read(reading, 1)
    for each in {reading, writing, number}:
        os.close(each)


def test_descriptors_above_1023_can_be_waited_for() -> None:
    """A process with many connections."""
    wakeup = WakeupPipe()
    wakeup.fileno = os.dup2(wakeup.fileno, 2_000)
    assert not wakeup.wait(0)
    wakeup.close()
