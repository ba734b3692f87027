"""The hands that run stages themselves, in children of this process, where tasks do not go to SQS."""

import time
from collections.abc import Collection, Sequence

from consumers.hands import Hands
from consumers.load import Load
from consumers.offsets import OffsetTracker
from consumers.outbox import Entry, Outbox, Rejection
from consumers.rejects import Rejects
from pipeline.kafka import Partition
from pipeline.patience import Abandoned
from pipeline.telemetry import metrics
from pipeline.worker.cancelled import CancelledJobs
from pipeline.worker.running import Running
from pipeline.worker.stagerun import Again, StageRun

#: How many events of an assignment may have been begun before, by a process that ended: the uncommitted span
#: (``throttle.MAX_SPAN``), and what one poll more may bring.
MAYBE_BEGUN = 1_500


class Runners(Hands):
    """An entry is out when its event has run in its stage to the end, or is a dead letter.

    An entry that is to be tried again goes back to the outbox, and its group waits behind it there.
    """

    def __init__(
        self, running: Running, outbox: Outbox, tracker: OffsetTracker, load: Load, rejects: Rejects
    ) -> None:
        threads = running.children.processes
        super().__init__(
            outbox, tracker, load, running.store, rejects, running.patience, threads=threads, batch=1
        )
        self._running = running
        self._cancelled = CancelledJobs(running.store)
        self._cancelled.start()
        running.cancelled_jobs = self._cancelled
        self._runs: dict[Entry, StageRun] = {}

    def drain(self, partitions: Collection[Partition], timeout: float) -> bool:
        """Begin nothing more until ``go_on``, and wait for what runs of these partitions.

        What waits would take too long: it is begun again where the partitions go, or at the next start.
        """
        self._outbox.hold()
        return super().drain(partitions, timeout)

    def end_runs(self) -> None:
        """End the children, whatever they run: it comes again, and no attempt is counted."""
        self._running.children.end()

    def close(self) -> None:
        """End the children too."""
        self._cancelled.close()
        self.end_runs()
        super().close()

    def _deliver(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            self._proceed(entry)

    def _proceed(self, entry: Entry) -> None:
        run = self._runs.get(entry) or self._begin(entry)
        try:
            result = run.proceed()
        except Abandoned:
            if not entry.ticket.ticket.lost:
                raise
            self._out([entry])
            return
        if isinstance(result, Again):
            self._outbox.later(entry, result.seconds)
        elif result.failure is None:
            self._out([entry])
        else:
            self._runs.pop(entry, None)
            failure = result.failure
            self._reject(
                entry,
                Rejection(
                    error=failure.error,
                    message=failure.message,
                    stage=entry.stage,
                    attempts=result.attempts,
                    traceback=failure.traceback,
                ),
            )

    def _begin(self, entry: Entry) -> StageRun:
        assert entry.task is not None
        ticket = entry.ticket.ticket
        metrics.EVENT_SECONDS.observe(max(0.0, time.time() - entry.source.timestamp_ms / 1000))
        run = StageRun(
            self._running,
            entry.task,
            entry.destination,
            mark=ticket.number < MAYBE_BEGUN,
            lost=lambda: ticket.lost,
        )
        self._runs[entry] = run
        return run

    def _out(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            self._runs.pop(entry, None)
        super()._out(entries)
