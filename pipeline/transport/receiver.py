"""Receivers: threads that long-poll one queue and pass its messages to the intake."""

import random
import threading
import time
import uuid
from collections.abc import Callable, Sequence

import structlog

from pipeline.errors import ServiceError, ServiceUnavailableError
from pipeline.sqs import ReceivedMessage, SqsQueue
from pipeline.telemetry import metrics
from pipeline.transport.intake import Intake
from pipeline.transport.lease import Lease

log = structlog.get_logger(__name__)

#: Threads a queue. Each has one receive under way: three fill a pool of tiny tasks at 10 ms round trip.
THREADS = 3
#: The first and the longest pause after an error (seconds); each doubles, with full jitter.
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 10.0


class Receiver:
    """The receivers of one queue."""

    def __init__(
        self,
        intake: Intake,
        queue: SqsQueue,
        *,
        name: str,
        wait_seconds: int,
        lease_seconds: int,
        take_in: Callable[[Sequence[Lease]], None],
        on_refused: Callable[[ServiceError], None],
    ) -> None:
        """``name``: the queue's name in Celery, that of its leases.

        ``take_in`` is called with received messages, ``on_refused`` with the error that ends receiving.

        That is a refusal of the queue, or one of ``take_in`` that the next messages would meet as well.
        """
        self._intake = intake
        self._queue = queue
        self._name = name
        self._wait_seconds = wait_seconds
        self._lease_seconds = lease_seconds
        self._take_in = take_in
        self._on_refused = on_refused
        self._stop = threading.Event()
        #: Whether the last answer, of any thread, was none. The lock: one of them logs a change.
        self._unreachable = False
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._work, name=f"receive-{name}-{n}", daemon=True)
            for n in range(THREADS)
        ]

    def start(self) -> None:
        """Start to receive: ``take_in`` may be called before this returns."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ask for no more messages. Returns at once; a poll under way still brings its messages."""
        self._stop.set()

    def join(self, timeout: float) -> None:
        """Wait, at most ``timeout`` seconds, for polls under way."""
        deadline = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0, deadline - time.monotonic()))

    def _work(self) -> None:
        attempt_id = uuid.uuid4().hex
        pause = FIRST_PAUSE
        while allowed := self._intake.ask(self._name, self._stop):
            try:
                self._receive(allowed.messages, attempt_id)
            except ServiceUnavailableError as error:
                self._note_unreachable(error)
                self._stop.wait(random.uniform(0, pause))  # noqa: S311 - jitter, not a secret
                pause = min(pause * 2, LONGEST_PAUSE)
                continue
            except ServiceError as error:
                log.error("receiver.refused", queue=self._name, error=str(error))
                self._on_refused(error)
                return
            except Exception:
                # What was received comes again when its lease ends; the receiver must live.
                log.exception("receiver.failed", queue=self._name)
                self._stop.wait(LONGEST_PAUSE)
            finally:
                self._intake.asked(allowed)
            self._note_reachable()
            attempt_id, pause = uuid.uuid4().hex, FIRST_PAUSE

    def _receive(self, count: int, attempt_id: str) -> None:
        # A lost answer is asked for again under the same id: SQS then gives the same messages.
        messages = self._queue.receive(
            count,
            wait_seconds=self._wait_seconds,
            visibility_seconds=self._lease_seconds,
            attempt_id=attempt_id,
        )
        if messages:
            metrics.TASKS_RECEIVED.labels(self._name).inc(len(messages))
            self._take_in([self._lease(message) for message in messages])

    def _lease(self, message: ReceivedMessage) -> Lease:
        return Lease.of(message, self._name, message.requested_at + self._lease_seconds)

    def _note_unreachable(self, error: ServiceError) -> None:
        if self._changes(unreachable=True):
            log.warning("queue.unreachable", queue=self._name, error=str(error))

    def _note_reachable(self) -> None:
        if self._changes(unreachable=False):
            log.info("queue.reachable_again", queue=self._name)

    def _changes(self, *, unreachable: bool) -> bool:
        """Note whether the queue is unreachable; return whether that is new."""
        with self._lock:
            before, self._unreachable = self._unreachable, unreachable
        return before is not unreachable
