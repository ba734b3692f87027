"""The heartbeat: extends the visibility of all messages held, running or waiting, before it ends.

A connection that a firewall dropped hangs without an error. So a call times out soon enough to be made again,
on another connection, while the lease lasts; and several are made at a time, so that one that hangs does not
cost the leases after it.
"""

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import structlog

from pipeline.clock import boottime
from pipeline.errors import ServiceError, ServiceRefusedError, ServiceUnavailableError
from pipeline.sqs import SqsQueue
from pipeline.telemetry import metrics
from pipeline.transport.disposal import BATCH, Disposal
from pipeline.transport.intake import Intake, by_queue
from pipeline.transport.lease import Lease, Phase

log = structlog.get_logger(__name__)

#: A worker whose event loop gave no sign of life for this many leases is wedged: others get its messages.
WEDGED_AFTER = 4
#: Calls made at a time: a thousand leases need a hundred calls.
THREADS = 4


def answer_within(lease_seconds: int) -> float:
    """Return how long one call may take (seconds): three fit into the half of a lease."""
    return max(1.0, lease_seconds / 10)


class Heartbeat:
    """A thread that extends leases of ``lease_seconds`` when two thirds of them are left or less."""

    def __init__(
        self, intake: Intake, disposal: Disposal, queue_named: Callable[[str], SqsQueue], lease_seconds: int
    ) -> None:
        self._intake = intake
        self._disposal = disposal
        self._queue_named = queue_named
        self._lease_seconds = lease_seconds
        self._sign_of_life = boottime()
        #: whether signs of life are expected: not without a connection, nor with tasks on the loop itself
        self.watches_loop = True
        #: the event loop gives no sign of life, and leases are no longer extended
        self.wedged = False
        self._unanswered = False
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="heartbeat")
        self._thread = threading.Thread(target=self._work, name="heartbeat", daemon=True)
        self._thread.start()

    def alive(self) -> None:
        """Note a sign of life of the event loop, which calls this about once a second."""
        self._sign_of_life = boottime()

    def close(self) -> None:
        """End the thread, and extend no more leases. Waits only briefly for a call under way."""
        self._stop.set()
        self._thread.join(1.0)
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _work(self) -> None:
        pause = self._lease_seconds / 6
        while not self._stop.wait(max(0.5, pause / 2) if self._unanswered else pause):
            try:
                self._beat()
            except Exception:
                if not self._stop.is_set():  # else its calls were called off
                    log.exception("heartbeat.failed")

    def _beat(self) -> None:
        now = boottime()
        wedged = self.watches_loop and now - self._sign_of_life > WEDGED_AFTER * self._lease_seconds
        if wedged != self.wedged:
            # Nor would it help to receive them again here.
            self.wedged = self._intake.paused = wedged
            log.error("heartbeat.loop_wedged" if wedged else "heartbeat.loop_recovered")
        if wedged:
            return
        self._drop_overdue()
        batches = _in_batches(self._intake.due(now + self._lease_seconds * 2 / 3))
        self._note([failure for failures in self._pool.map(self._extend, batches) for failure in failures])

    def _drop_overdue(self) -> None:
        """Give back runs that outlived their limit and the time to kill them: nothing will report them."""
        for lease in self._intake.overdue():
            log.error("lease.overdue", queue=lease.queue, message_id=lease.message_id)
            self._disposal.give_back(lease)

    def _extend(self, leases: list[Lease]) -> list[tuple[Lease, ServiceError]]:
        with self._disposal.locks.lock_free(leases) as locked:
            # Checked under the lock: one given back meanwhile keeps the delay it was given.
            ours = [x for x in locked if self._intake.is_held(x) and x.phase is not Phase.RETURNING]
            if not ours:
                return []
            target = self._queue_named(ours[0].queue)
            asked_at = boottime()
            handles = [lease.message.receipt_handle for lease in ours]
            answers = target.change_visibility([(handle, self._lease_seconds) for handle in handles])
            for lease, handle, error in zip(ours, handles, answers, strict=True):
                if error is None and handle == lease.message.receipt_handle:
                    lease.deadline = asked_at + self._lease_seconds
        return [
            (lease, error)
            for lease, error in zip(ours, answers, strict=True)
            if error is not None and self._intake.is_held(lease) and lease.phase is not Phase.DELETING
        ]

    def _note(self, failed: list[tuple[Lease, ServiceError]]) -> None:
        """Give up leases whose extension was refused; those without an answer are tried at the next beat."""
        unanswered = [error for _, error in failed if isinstance(error, ServiceUnavailableError)]
        if bool(unanswered) != self._unanswered:
            self._unanswered = bool(unanswered)
            log.warning(
                "heartbeat.unanswered" if unanswered else "heartbeat.answered_again",
                messages=len(unanswered),
                error=str(unanswered[0]) if unanswered else None,
            )
        for lease, error in failed:
            if isinstance(error, ServiceRefusedError):
                metrics.LEASES_LOST.labels(lease.queue).inc()
                log.warning("lease.lost", queue=lease.queue, message_id=lease.message_id, error=str(error))
                # Behind a head that another worker may have now, nothing may start here.
                self._disposal.release(self._intake.cut(lease.lane))


def _in_batches(leases: Iterable[Lease]) -> list[list[Lease]]:
    """Group leases into calls: one queue in each, those that end soonest first."""
    soonest = sorted(leases, key=lambda lease: lease.deadline)
    return [
        here[start : start + BATCH]
        for here in by_queue(soonest).values()
        for start in range(0, len(here), BATCH)
    ]
