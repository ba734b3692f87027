"""The hands that send tasks to SQS, in batches."""

import time
from collections.abc import Callable, Sequence

from consumers.hands import Hands
from consumers.load import Load
from consumers.offsets import OffsetTracker
from consumers.outbox import Entry, Outbox, Rejection
from consumers.rejects import Rejects
from pipeline.errors import MessageRefusedError, ServiceError
from pipeline.jobs import JobStore
from pipeline.patience import Patience
from pipeline.sqs import SqsQueue
from pipeline.telemetry import metrics

#: Batches in flight at once. A round trip is about 10 ms, and back from it a thread waits some more for the
#: one that makes tasks. Measured on 2 busy cores, at 0 ms: 8 send a quarter more than 4.
THREADS = 8

#: Entries of a batch: what one SQS request takes.
BATCH = 10

#: The queue of a name.
QueueOf = Callable[[str], SqsQueue]


class Senders(Hands):
    """An entry is out when SQS has its task."""

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
        super().__init__(outbox, tracker, load, store, rejects, patience, threads=THREADS, batch=BATCH)
        self._queue = queue

    def end_runs(self) -> None:
        """Nothing runs here."""

    def _deliver(self, entries: Sequence[Entry]) -> None:
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
                # SQS will never take this task.
                self._reject(
                    entry, Rejection(error=type(error).__name__, message=str(error), stage=entry.stage)
                )
            elif error is not None:
                raise error


def _count(batch: Sequence[Entry], taken: Sequence[Entry]) -> None:
    metrics.SEND_ENTRIES.observe(len(batch))
    metrics.TASKS_SENT.labels(batch[0].destination).inc(len(taken))
    now = time.time()
    for entry in taken:
        metrics.EVENT_SECONDS.observe(max(0.0, now - entry.source.timestamp_ms / 1000))
