"""The threads that empty the outbox: open jobs, see each entry on its way, and rejects to their end."""

import threading
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import replace

from consumers.load import Load
from consumers.offsets import OffsetTracker
from consumers.outbox import REJECTED, Entry, Outbox, Rejection, SharedTicket
from consumers.rejects import Rejects
from pipeline.errors import ServiceError
from pipeline.jobs import JobStore, NewJob
from pipeline.kafka import Partition
from pipeline.patience import Abandoned, Patience

#: Seconds to wait for each thread's last call at the end; their own timeouts are shorter.
JOIN_TIMEOUT = 20.0


class Hands(ABC):
    """Work until closed. What fails for good stops them, and stands in ``failure``."""

    def __init__(
        self,
        outbox: Outbox,
        tracker: OffsetTracker,
        load: Load,
        store: JobStore,
        rejects: Rejects,
        patience: Patience,
        *,
        threads: int,
        batch: int,
    ) -> None:
        """``threads`` that take up to ``batch`` entries each."""
        self._outbox = outbox
        self._tracker = tracker
        self._load = load
        self._store = store
        self._rejects = rejects
        self._patience = patience
        self._batch = batch
        self._threads = [
            threading.Thread(target=self._run, name=f"bridge-hand-{n}", daemon=True) for n in range(threads)
        ]
        #: Why they ended by themselves: a service refuses everything, or a bug.
        self.failure: Exception | None = None

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def drain(self, partitions: Collection[Partition], timeout: float) -> bool:
        """Wait for what was taken of these partitions to be out; False when time ran out first.

        What is held in the outbox is not waited for: it is read again, by whoever has them next.
        """
        if self._outbox.held:
            return self._outbox.wait_returned(partitions, timeout)
        return self._tracker.wait_settled(partitions, timeout)

    @abstractmethod
    def end_runs(self) -> None:
        """End what runs here before another may begin it: the partitions are given away next."""

    def close(self) -> None:
        """End after the calls in flight; what waits for a service is given up, and read again some day."""
        self._outbox.close()
        self._patience.end()
        for thread in self._threads:
            thread.join(JOIN_TIMEOUT)
        self._rejects.close()

    @abstractmethod
    def _deliver(self, entries: Sequence[Entry]) -> None:
        """See these of one destination on their way: each ends in ``_out``, ``_reject`` or the outbox."""

    def _run(self) -> None:
        try:
            while batch := self._outbox.take(self._batch):
                self._handle(batch)
        except Abandoned:
            pass
        except Exception as error:  # noqa: BLE001 - the bridge ends with it; nothing of it is committed
            self.failure = self.failure or error

    def _handle(self, batch: list[Entry]) -> None:
        lost = [entry for entry in batch if entry.ticket.ticket.lost]
        self._out(lost)
        entries = [entry for entry in batch if entry not in lost]
        self._open_jobs(entries)
        if batch[0].destination == REJECTED:
            self._rejects.bury(entries)
            self._out(entries)
        elif entries:
            self._deliver(entries)

    def _open_jobs(self, entries: Sequence[Entry]) -> None:
        """A job has its record before its first task can be done, or its first event committed."""
        jobs = list({entry.job.job_id: entry.job for entry in entries if entry.job}.values())

        def call(batch: list[NewJob]) -> list[ServiceError | None]:
            opened = self._store.open_jobs(batch)
            return [answer if isinstance(answer, ServiceError) else None for answer in opened]

        for error in self._patience.each("open jobs", jobs, call):
            if error is not None:
                raise error

    def _reject(self, entry: Entry, rejection: Rejection) -> None:
        """It goes the way of an event that cannot become a task."""
        entry.ticket.span.fail(rejection.error, rejection.message)
        # Behind it the group goes on, as it does behind any dead letter.
        self._outbox.put(replace(entry, destination=REJECTED, rejection=rejection))
        self._outbox.out([entry])

    def _out(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            if entry.ticket.release():
                entry.ticket.span.end()
                self._settle(entry.ticket)
        self._outbox.out(entries)

    def _settle(self, ticket: SharedTicket) -> None:
        self._tracker.settle(ticket.ticket)
        self._load.remove(ticket.size)
