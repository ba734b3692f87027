"""Disposal: what is settled leaves the queue or goes back to it, in batches, off the event loop."""

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from pipeline.errors import ServiceError, ServiceUnavailableError
from pipeline.sqs import SqsQueue
from pipeline.transport.intake import Intake
from pipeline.transport.lease import Lease

log = structlog.get_logger(__name__)

#: Threads that call SQS: each has one call of ten under way, 3,000 a second at 10 ms round trip.
THREADS = 3
#: How long to wait for a call to fill up (seconds): a few tasks' time, far below any lease.
LINGER = 0.005
#: Entries of one SQS batch call.
BATCH = 10
#: Between tries when SQS does not answer (seconds).
RETRY_AFTER = 0.5
#: The longest visibility SQS allows, less a margin (seconds): 12 hours from the receive.
LONGEST_VISIBILITY = 12 * 3600 - 300


@dataclass(frozen=True, slots=True)
class _Order:
    lease: Lease
    #: None: delete; otherwise hide it for so many seconds, then let it come again
    delay: int | None


class Disposal:
    """Deletes and returns messages. Every order ends in ``Intake.forget``, so nothing is held for ever."""

    def __init__(self, intake: Intake, queue_named: Callable[[str], SqsQueue]) -> None:
        self._intake = intake
        self._queue_named = queue_named
        self._orders: queue.SimpleQueue[_Order | None] = queue.SimpleQueue()
        #: held while a visibility is set, so that a heartbeat never undoes the delay of a return
        self.visibility = threading.Lock()
        self._stopping = False
        self._threads = [
            threading.Thread(target=self._work, name=f"disposal-{n}", daemon=True) for n in range(THREADS)
        ]
        for thread in self._threads:
            thread.start()

    def delete(self, lease: Lease) -> None:
        """Its effects are safe: delete the message. Returns at once."""
        self._orders.put(_Order(lease, None))

    def give_back(self, lease: Lease, delay: float = 0) -> None:
        """Let it come again after ``delay`` seconds. Returns at once.

        Those waiting behind it in its lane go back too: SQS keeps them behind it until it is through,
        and another worker may take them with it.
        """
        for follower in reversed(self._intake.cut(lease.lane)):
            if follower is not lease:
                self._orders.put(_Order(follower, 0))
        self._orders.put(_Order(lease, min(max(0, round(delay)), LONGEST_VISIBILITY)))

    def give_back_waiting(self, queue_name: str | None = None) -> None:
        """Give back all that wait (of one queue, or of every queue). Returns at once."""
        for lease in self._intake.cut_all(queue_name):
            self._orders.put(_Order(lease, 0))

    def close(self, timeout: float) -> None:
        """Carry out what was ordered, for at most ``timeout`` seconds, and end the threads."""
        self._stopping = True
        deadline = time.monotonic() + timeout
        for _ in self._threads:
            self._orders.put(None)
        for thread in self._threads:
            thread.join(max(0, deadline - time.monotonic()))

    def _work(self) -> None:
        while (order := self._orders.get()) is not None:
            batch, last = self._fill(order)
            try:
                self._carry_out(batch)
            except Exception:
                # Forgotten, so that the heartbeat lets it come again by itself.
                log.exception("disposal.failed", messages=len(batch))
                for each in batch:
                    self._intake.forget(each.lease)
            if last:
                return

    def _fill(self, order: _Order) -> tuple[list[_Order], bool]:
        batch = [order]
        until = time.monotonic() + LINGER
        while len(batch) < BATCH:
            try:
                more = self._orders.get(timeout=max(0, until - time.monotonic()))
            except queue.Empty:
                break
            if more is None:
                return batch, True
            batch.append(more)
        return batch, False

    def _carry_out(self, batch: Sequence[_Order]) -> None:
        for name in {order.lease.queue for order in batch}:
            here = [order for order in batch if order.lease.queue == name]
            target = self._queue_named(name)
            self._delete(target, [order.lease for order in here if order.delay is None])
            self._return(target, [order for order in here if order.delay is not None])

    def _delete(self, target: SqsQueue, leases: list[Lease]) -> None:
        while leases:
            answers = target.delete([lease.message.receipt_handle for lease in leases])
            leases = self._conclude(leases, answers, "message.delete_refused")
            self._pause_before_again(leases)

    def _return(self, target: SqsQueue, orders: list[_Order]) -> None:
        delays = {order.lease.tag: order.delay or 0 for order in orders}
        leases = [order.lease for order in orders]
        while leases:
            with self.visibility:
                changes = [(lease.message.receipt_handle, delays[lease.tag]) for lease in leases]
                answers = target.change_visibility(changes)
                leases = self._conclude(leases, answers, "message.return_refused")
            self._pause_before_again(leases)

    def _conclude(
        self, leases: list[Lease], answers: Sequence[ServiceError | None], refused: str
    ) -> list[Lease]:
        """Forget what is through; those SQS did not answer for, to try again.

        A refusal is no error: the lease was lost, so the message comes again, and a done task is
        recognised then.
        """
        again = []
        for lease, error in zip(leases, answers, strict=True):
            if isinstance(error, ServiceUnavailableError) and not self._stopping:
                again.append(lease)
                continue
            if error is not None:
                log.info(refused, queue=lease.queue, message_id=lease.tag, error=str(error))
            self._intake.forget(lease)
        return again

    @staticmethod
    def _pause_before_again(leases: list[Lease]) -> None:
        if leases:
            time.sleep(RETRY_AFTER)
