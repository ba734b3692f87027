"""The threads that empty the outbox: open jobs, send tasks to SQS in batches, see rejects to their end."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from consumers.load import Load
from consumers.offsets import OffsetTracker
from consumers.outbox import REJECTED, Entry, Outbox, Rejection, SharedTicket
from consumers.rejects import Rejects
from pipeline.errors import MessageRefusedError, ServiceError
from pipeline.jobs import JobStore, NewJob
from pipeline.patience import Abandoned, Patience
from pipeline.sqs import SqsQueue
from pipeline.telemetry import metrics

#: Batches in flight at once. SQS takes a few hundred batches a second; a round trip is about 10 ms.
THREADS = 4

#: Entries of a batch: what one SQS request takes.
BATCH = 10

#: Seconds to wait for each thread's last call at the end; their own timeouts are shorter.
JOIN_TIMEOUT = 20.0


#: The queue of a name.
QueueOf = Callable[[str], SqsQueue]


class Senders:
    """Sends until closed. What fails for good stops it, and stands in ``failure``."""

    def __init__(
        self,
        queue: QueueOf,
        outbox: Outbox,
        tracker: OffsetTracker,
        load: Load,
        store: JobStore,
        rejects: Rejects,
        patience: Patience,
    ) -> None:
        self._queue = queue
        self._outbox = outbox
        self._tracker = tracker
        self._load = load
        self._store = store
        self._rejects = rejects
        self._patience = patience
        self._threads = [
            threading.Thread(target=self._run, name=f"bridge-sender-{n}", daemon=True) for n in range(THREADS)
        ]
        #: Why sending ended by itself: a service refuses everything, or a bug.
        self.failure: Exception | None = None

    def start(self) -> None:
        """Begin to send."""
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """End after the calls in flight; what waits for a service is given up, and read again some day."""
        self._outbox.close()
        self._patience.end()
        for thread in self._threads:
            thread.join(JOIN_TIMEOUT)

    def _run(self) -> None:
        try:
            while batch := self._outbox.take(BATCH):
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
        else:
            self._send(entries)

    def _open_jobs(self, entries: Sequence[Entry]) -> None:
        """A job has its record before its first task can be done, or its first event committed."""
        jobs = list({entry.job.job_id: entry.job for entry in entries if entry.job}.values())

        def call(batch: list[NewJob]) -> list[ServiceError | None]:
            opened = self._store.open_jobs(batch)
            return [answer if isinstance(answer, ServiceError) else None for answer in opened]

        for error in self._patience.each("open jobs", jobs, call):
            if error is not None:
                raise error

    def _send(self, entries: Sequence[Entry]) -> None:
        if not entries:
            return
        queue = self._queue(entries[0].destination)

        def call(batch: list[Entry]) -> list[ServiceError | None]:
            answers = queue.send([entry.task for entry in batch if entry.task])
            taken = [entry for entry, error in zip(batch, answers, strict=True) if error is None]
            # At once, so that those that SQS took do not wait for those to be sent again.
            self._out(taken)
            _count(batch, taken)
            return answers

        for entry, error in zip(entries, self._patience.each("task queue", entries, call), strict=True):
            if isinstance(error, MessageRefusedError):
                self._reject(entry, error)
            elif error is not None:
                raise error

    def _reject(self, entry: Entry, error: MessageRefusedError) -> None:
        """SQS will never take this task: it goes the way of an event that cannot become one."""
        rejection = Rejection(error=type(error).__name__, message=str(error), stage=entry.stage)
        entry.ticket.span.fail(rejection.error, rejection.message)
        # Behind it the group goes on, as it does behind any dead letter.
        self._outbox.put(replace(entry, destination=REJECTED, rejection=rejection))
        self._outbox.out([entry])

    def _out(self, entries: Sequence[Entry]) -> None:
        self._outbox.out(entries)
        for entry in entries:
            if entry.ticket.release():
                entry.ticket.span.end()
                self._settle(entry.ticket)

    def _settle(self, ticket: SharedTicket) -> None:
        self._tracker.settle(ticket.ticket)
        self._load.remove(ticket.size)


def _count(batch: Sequence[Entry], taken: Sequence[Entry]) -> None:
    metrics.SEND_ENTRIES.observe(len(batch))
    metrics.TASKS_SENT.labels(batch[0].destination).inc(len(taken))
    now = time.time()
    for entry in taken:
        metrics.EVENT_SECONDS.observe(max(0.0, now - entry.source.timestamp_ms / 1000))
