"""Timers of the worker's event loop."""

from kombu.asynchronous.timer import Timer

from pipeline.worker.consumer import drop_cancelled_timers


def test_cancelled_timers_are_let_go() -> None:
    """Cancelled timers are removed before their time; the others fire, in order."""
    timer = Timer()
    fired: list[int] = []
    loop = iter(timer)
    entries = [timer.call_at(number - 1000, fired.append, (number,)) for number in range(1000)]
    for number, entry in enumerate(entries):
        if number % 100:
            entry.cancel()
    drop_cancelled_timers(timer)
    assert len(timer) == 10
    while timer:
        _, due = next(loop)
        due()
        if len(fired) == 10:
            break
    assert fired == list(range(0, 1000, 100))
