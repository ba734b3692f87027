"""Receivers: what the threads of one queue say of it."""

import threading
from types import SimpleNamespace
from typing import Any, cast

from pipeline.errors import ServiceUnavailableError
from pipeline.transport import receiver as receiver_module
from pipeline.transport.receiver import THREADS, Receiver
from tests.loglines import log_lines
from tests.processes import PATIENCE


class Queue:
    """Gives no answer to the first receive of each thread and an empty one to the second.

    No thread goes on before all of them have asked.
    """

    name = "tasks.fifo"

    def __init__(self) -> None:
        self._asked = threading.Barrier(THREADS, timeout=PATIENCE)
        self._own = threading.local()

    def receive(self, *_: Any, **__: Any) -> list[Any]:
        self._asked.wait()
        if not hasattr(self._own, "failed"):
            self._own.failed = True
            raise ServiceUnavailableError("away")
        return []


class Intake:
    """Lets each thread receive twice."""

    def __init__(self) -> None:
        self._own = threading.local()

    def ask(self, *_: Any) -> Any:
        self._own.times = getattr(self._own, "times", 0) + 1
        return SimpleNamespace(messages=10) if self._own.times <= 2 else None

    def asked(self, _: Any) -> None:
        """Nothing is counted."""


def test_an_outage_is_said_once_for_all_threads_of_a_queue() -> None:
    """One line when SQS gives no answer, and one when it answers again, whichever threads see it."""
    receiver = Receiver(
        cast(Any, Intake()),
        cast(Any, Queue()),
        name="tasks",
        wait_seconds=0,
        lease_seconds=30,
        take_in=lambda _: None,
        on_refused=lambda _: None,
    )
    with log_lines(receiver_module) as lines:
        receiver.start()
        receiver.join(PATIENCE)
    assert [line["event"] for line in lines] == ["queue.unreachable", "queue.reachable_again"]
