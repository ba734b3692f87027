"""Timers of the worker's event loop."""

from kombu.asynchronous.timer import Timer

from pipeline.worker.timers import drop_cancelled


def test_cancelled_timers_are_let_go() -> None:
    """What is cancelled takes no memory until its time; what is not still fires, in order."""
    timer = Timer()
    fired: list[int] = []
    loop = iter(timer)
    entries = [timer.call_at(number, fired.append, (number,)) for number in range(1000)]
    for number, entry in enumerate(entries):
        if number % 100:
            entry.cancel()
    drop_cancelled(timer)
    assert len(timer) == 10
    while timer:
        _, due = next(loop)
        due()
        if len(fired) == 10:
            break
    assert fired == list(range(0, 1000, 100))
