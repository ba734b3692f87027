"""The heartbeat: extends the visibility of all that is held, running or waiting, before it ends."""

import threading
from collections.abc import Callable

import structlog

from pipeline.clock import boottime
from pipeline.errors import ServiceError, ServiceRefusedError
from pipeline.sqs import SqsQueue
from pipeline.transport.disposal import Disposal
from pipeline.transport.intake import Intake, by_queue
from pipeline.transport.lease import Lease

log = structlog.get_logger(__name__)

#: A worker whose event loop gave no sign for this many leases is wedged: its messages go to others.
WEDGED_AFTER = 4


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
        #: False for a pool that runs tasks on the event loop itself, which then gives no sign by design
        self.watches_loop = True
        self._wedged = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="heartbeat", daemon=True)
        self._thread.start()

    def alive(self) -> None:
        """The event loop turns. Called from it about once a second."""
        self._sign_of_life = boottime()

    def close(self) -> None:
        """End the thread; leases are no longer extended."""
        self._stop.set()
        self._thread.join()

    def _work(self) -> None:
        while not self._stop.wait(self._lease_seconds / 6):
            try:
                self._beat()
            except Exception:
                log.exception("heartbeat.failed")

    def _beat(self) -> None:
        now = boottime()
        wedged = self.watches_loop and now - self._sign_of_life > WEDGED_AFTER * self._lease_seconds
        if wedged != self._wedged:
            self._wedged = wedged
            log.error("heartbeat.loop_wedged" if wedged else "heartbeat.loop_recovered")
        if wedged:
            return
        due = self._intake.due(now + self._lease_seconds * 2 / 3)
        for name, leases in by_queue(due).items():
            self._extend(self._queue_named(name), leases, now)

    def _extend(self, target: SqsQueue, leases: list[Lease], now: float) -> None:
        with self._disposal.visibility:
            # Checked under the lock: one given back meanwhile keeps the delay it was given.
            ours = [
                lease
                for lease in leases
                if self._intake.is_held(lease) and (lease.run_until is None or now < lease.run_until)
            ]
            asked_at = boottime()
            changes = [(lease.message.receipt_handle, self._lease_seconds) for lease in ours]
            answers = target.change_visibility(changes) if changes else []
            for lease, error in zip(ours, answers, strict=True):
                if error is None:
                    lease.deadline = asked_at + self._lease_seconds
        for lease, error in zip(ours, answers, strict=True):
            if error is not None:
                self._failed(lease, error)

    def _failed(self, lease: Lease, error: ServiceError) -> None:
        """A refused extension means the lease is lost; no answer means trying again at the next beat."""
        if not self._intake.is_held(lease):
            return
        log.warning("lease.extend_failed", queue=lease.queue, message_id=lease.tag, error=str(error))
        if isinstance(error, ServiceRefusedError):
            for waiting in self._intake.cut(lease.lane):
                if waiting is not lease:
                    self._disposal.give_back(waiting)
