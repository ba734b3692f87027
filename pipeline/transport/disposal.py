"""Disposal: deletes settled messages and gives others back, in batches, off the event loop."""

import math
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import structlog

from pipeline.errors import ServiceError, ServiceUnavailableError
from pipeline.sqs import SqsQueue
from pipeline.transport.batches import Batches
from pipeline.transport.intake import Intake
from pipeline.transport.lease import LONGEST_HOLD, Lease, LeaseLocks

log = structlog.get_logger(__name__)

#: Threads that call SQS: each has one call of ten under way, 3,000 a second at 10 ms round trip.
THREADS = 3
#: How long to wait for a call to fill up (seconds): a few tasks' time, far below any lease.
LINGER = 0.02
#: Entries of one SQS batch call.
BATCH = 10
#: Between tries when SQS does not answer (seconds).
RETRY_AFTER = 0.5


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
        self._orders: Batches[_Order] = Batches(most=BATCH, enough=BATCH, linger=LINGER)
        #: held while the visibility of a message is changed, here or by the heartbeat
        self.locks = LeaseLocks()
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._work, name=f"disposal-{n}", daemon=True) for n in range(THREADS)
        ]
        for thread in self._threads:
            thread.start()

    def delete(self, leases: Sequence[Lease], *, hurry: bool = False) -> None:
        """Delete messages whose effects are safe, and let the next of their groups start.

        Returns at once; the first order for a message counts.
        With ``hurry`` the call does not wait until it is full: SQS delivers no more of their group before it.
        """
        self._orders.put_all([_Order(each, None) for each in self._intake.delete(leases)], hurry=hurry)

    def give_back(self, lease: Lease, delay: float = 0) -> None:
        """Give a message back for ``delay`` seconds, and those waiting behind it at once.

        Returns at once; the first order for a message counts.
        """
        seconds = min(max(0, math.ceil(delay)), int(LONGEST_HOLD))
        for each in self._intake.give_back(lease):
            self._orders.put(_Order(each, seconds if each is lease else 0))

    def give_back_waiting(self, queue_name: str | None = None) -> None:
        """Give back all messages that wait (of one queue, or of every queue). Returns at once."""
        self.release(self._intake.cut_all(queue_name))

    def release(self, leases: Iterable[Lease]) -> None:
        """Give back at once the leases that the intake cut. Returns at once."""
        for lease in leases:
            self._orders.put(_Order(lease, 0))

    def close(self, timeout: float) -> None:
        """Carry out all orders, for at most ``timeout`` seconds, and end the threads."""
        self._stopping.set()
        deadline = time.monotonic() + timeout
        self._orders.end()
        for thread in self._threads:
            thread.join(max(0, deadline - time.monotonic()))

    def _work(self) -> None:
        while batch := self._orders.take():
            try:
                self._carry_out(batch)
            except Exception:
                # Forgotten, so that the heartbeat lets it come again by itself.
                log.exception("disposal.failed", messages=len(batch))
                self._intake.forget(order.lease for order in batch)

    def _carry_out(self, batch: Sequence[_Order]) -> None:
        for name in {order.lease.queue for order in batch}:
            here = [order for order in batch if order.lease.queue == name]
            target = self._queue_named(name)
            self._delete(target, [order.lease for order in here if order.delay is None])
            self._return(target, [order for order in here if order.delay is not None])

    def _delete(self, target: SqsQueue, leases: list[Lease]) -> None:
        while leases:
            handles = [lease.message.receipt_handle for lease in leases]
            leases = self._conclude(leases, handles, target.delete(handles), "message.delete_refused")
            self._pause_before_again(leases)

    def _return(self, target: SqsQueue, orders: list[_Order]) -> None:
        delays = {order.lease.message_id: order.delay or 0 for order in orders}
        leases = [order.lease for order in orders]
        # One that is here again already is a new lease, and not to be made visible under it.
        while leases := [lease for lease in leases if self._intake.is_held(lease)]:
            handles = [lease.message.receipt_handle for lease in leases]
            seconds = [delays[lease.message_id] for lease in leases]
            with self.locks.lock_all(leases):
                answers = target.change_visibility(list(zip(handles, seconds, strict=True)))
            leases = self._conclude(leases, handles, answers, "message.return_refused")
            self._pause_before_again(leases)

    def _conclude(
        self, leases: list[Lease], handles: list[str], answers: Sequence[ServiceError | None], refused: str
    ) -> list[Lease]:
        """Forget the leases that SQS answered for; return those to try again.

        A refusal is no error: the lease was lost, so the message comes again, and a done task is recognised
        then. If it came again meanwhile, it has a new handle.
        """
        again, over = [], []
        for lease, handle, error in zip(leases, handles, answers, strict=True):
            unanswered = isinstance(error, ServiceUnavailableError) and not self._stopping.is_set()
            if unanswered or (error is not None and handle != lease.message.receipt_handle):
                again.append(lease)
                continue
            if error is not None:
                log.info(refused, queue=lease.queue, message_id=lease.message_id, error=str(error))
            over.append(lease)
        self._intake.forget(over)
        return again

    def _pause_before_again(self, leases: list[Lease]) -> None:
        if leases:
            self._stopping.wait(RETRY_AFTER)
