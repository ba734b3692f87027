"""Settlement: emit, record, close and delete the tasks whose run has ended, in batches.

The order is the promise. Recorded implies emitted, so a recorded task may be skipped safely; deleted
implies recorded, so a crash anywhere is repaired by the redelivery. The result of a plain task is what
records it, so it comes last before the delete.
"""

import threading
import time
from collections.abc import Callable, Sequence
from functools import partial

import structlog

from pipeline.patience import Abandoned, Patience, raise_first
from pipeline.transport.lease import Lease, Phase
from pipeline.transport.source import TaskSource
from pipeline.wire.marker import Marker
from pipeline.worker.child.outcome import (
    AlreadyDone,
    Cancelled,
    Discarded,
    Failed,
    Marked,
    Returned,
    Succeeded,
)
from pipeline.worker.settle.arrivals import Arrivals
from pipeline.worker.settle.chords import Chords
from pipeline.worker.settle.completion import Completion
from pipeline.worker.settle.deadletter import DeadLetters
from pipeline.worker.settle.results import ResultRecorder
from pipeline.worker.settle.retry import Retries
from pipeline.worker.settle.work import Work, count, count_failures, keep

log = structlog.get_logger(__name__)

#: Threads, each with one batch under way: while one waits for Kafka another waits for DynamoDB.
THREADS = 4


class Settlement:
    """Takes finished work from the worker's event loop and settles it on threads."""

    def __init__(
        self,
        source: TaskSource,
        completion: Completion,
        retries: Retries,
        dead_letters: DeadLetters,
        chords: Chords,
        results: ResultRecorder,
        patience: Patience,
        *,
        on_dead_letter: Callable[[Work], None],
        record_markers: Callable[[Sequence[Marker]], None],
        is_strict: Callable[[Lease], bool],
    ) -> None:
        """``on_dead_letter`` is called once a task is a dead letter, before its message is deleted.

        ``record_markers`` records markers of the sweep, before their messages are deleted.

        ``is_strict``: whether the next task of a group starts only when this one is recorded.
        """
        self._on_dead_letter = on_dead_letter
        self._record_markers = record_markers
        self._is_strict = is_strict
        self.intake = source.intake
        self._disposal = source.disposal
        self._completion = completion
        self._retries = retries
        self._dead_letters = dead_letters
        self._chords = chords
        self._results = results
        self._patience = patience
        self._arrivals = Arrivals()
        self._threads = [
            threading.Thread(target=self._work, name=f"settlement-{n}", daemon=True) for n in range(THREADS)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, work: Work) -> None:
        """Settle a finished work. Returns at once; safe from any thread.

        The next task of its group starts now if the run went well, else once this one is settled.
        """
        followed, passes = self.intake.is_followed(work.lease), self._may_pass(work)
        self._arrivals.put(work, hurry=followed and not passes, more=followed and passes)
        if passes:
            self.intake.let_pass(work.lease)

    def _may_pass(self, work: Work) -> bool:
        if work.lease.void or work.lease.suspect or self._is_strict(work.lease):
            # A suspect is blamed if the process ends before it is settled: nothing else must end it.
            return False
        if isinstance(work.outcome, Succeeded):
            # The parts of a split come after it.
            return work.role != "split"
        return isinstance(work.outcome, AlreadyDone | Discarded | Cancelled)

    def close(self, timeout: float) -> bool:
        """Settle what arrived, for at most ``timeout`` seconds; return whether all of it is settled.

        The rest stays in SQS: its redelivery repairs it.
        """
        deadline = time.monotonic() + timeout
        self._arrivals.end()
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self._patience.end()
        return not any(thread.is_alive() for thread in self._threads)

    def _work(self) -> None:
        while batch := self._arrivals.take():
            try:
                self._settle_batch(batch)
            except Abandoned:
                return
            self._arrivals.done(batch)

    def _settle_batch(self, batch: Sequence[Work]) -> None:
        """Settle the batch; on an error retry one by one, so that one work does not hold up the others."""
        try:
            self._settle(batch)
        except Abandoned:
            raise
        except Exception:
            if len(batch) > 1:
                for work in batch:
                    self._settle_batch([work])
                return
            # Not deleted, so it is redelivered, and the redrive policy ends it if it always fails.
            log.exception("settlement.failed", task_id=batch[0].task_id)
            self._disposal.give_back(batch[0].lease, delay=self._retries.pause)

    def _settle(self, batch: Sequence[Work]) -> None:
        done: list[Work] = []
        splits: list[Work] = []
        unsuccessful: list[Work] = []
        marked: list[Work] = []
        discarded: list[Work] = []
        # One that is not finished was settled when the batch was settled as a whole, or went back.
        for work in (work for work in batch if work.lease.phase is Phase.FINISHED):
            match work.outcome:
                case _ if work.lease.void:
                    self._disposal.give_back(work.lease)
                case Returned(delay=delay):
                    self._disposal.give_back(work.lease, delay)
                    count(work)
                case Discarded() | Cancelled():
                    discarded.append(work)
                case Failed():
                    unsuccessful.append(work)
                case Marked():
                    marked.append(work)
                case Succeeded() if work.role == "split":
                    splits.append(work)
                case Succeeded() | AlreadyDone():
                    done.append(work)
        self._settle_discarded(discarded)
        self._settle_in_order(done, unsuccessful)
        for split in splits:
            # Sending many parts takes long: nothing else waits for it.
            self._settle_in_order([split], [])
        self._settle_markers(marked)

    def _settle_discarded(self, works: Sequence[Work]) -> None:
        if works:
            raise_first(self._chords.record(works))
            raise_first(self._results.record(works))
            self._delete(works)
        for work in works:
            count(work)

    def _settle_markers(self, works: Sequence[Work]) -> None:
        """Record markers, after all that ran before them in their lanes: a batch has a lane's works in order.

        Those behind a work that went back to the queue go back, too.
        """
        for work in works:
            if work.lease.void:
                self._disposal.give_back(work.lease)
        left = [work for work in works if work.lease.phase is Phase.FINISHED and not work.lease.void]
        markers = [work.outcome.marker for work in left if isinstance(work.outcome, Marked)]
        if markers:
            self._patience.one("record markers", partial(self._record_markers, markers))
            self._delete(left)

    def _settle_in_order(self, done: Sequence[Work], failed: Sequence[Work]) -> None:
        """Complete those done, then end the failed, which are the last of their lanes.

        Behind one that can never be emitted or recorded, its lane waits until it is a dead letter.
        """
        refused: list[Work] = []
        completed = self._complete(done, refused)
        settled = {id(work) for work in (*completed, *refused)}
        behind = [work for work in done if id(work) not in settled]
        lanes = {work.lease.lane for work in behind}
        self._retry_or_dead_letter([*refused, *(each for each in failed if each.lease.lane not in lanes)])
        if behind:
            self._settle_in_order(behind, [each for each in failed if each.lease.lane in lanes])

    def _retry_or_dead_letter(self, unsuccessful: Sequence[Work]) -> None:
        """Retry failed tasks that have attempts left; dead-letter the others."""
        given_up = self._retries.retry(unsuccessful)
        self._dead_letters.dead_letter(given_up)
        for work in given_up:
            self._patience.one("record results", partial(self._results.fail, work))
            self._chords.fail_work(work)
            self._patience.one("errbacks", partial(self._on_dead_letter, work))
            self._delete([work])
        count_failures(unsuccessful, given_up)

    def _complete(self, done: Sequence[Work], refused: list[Work]) -> list[Work]:
        """Emit, record, close (see ``Completion.complete``), keep the result, delete."""
        completed = self._completion.complete(done, refused, lambda work: self.intake.advance(work.lease))
        completed = keep(completed, self._chords.record(completed), refused)
        completed = keep(completed, self._results.record(completed), refused)
        self._delete(completed)
        for work in completed:
            if isinstance(work.outcome, Succeeded):
                work.send_event("task-succeeded", result=work.outcome.summary, runtime=work.outcome.seconds)
            else:
                # Done before this delivery, by a worker that may have died before it sent the event.
                work.send_event("task-succeeded")
        return completed

    def _delete(self, works: Sequence[Work]) -> None:
        leases = [work.lease for work in works]
        # Of a lane several at once, so that SQS delivers the next ones soon.
        self._disposal.delete(leases, hurry=len({lease.lane for lease in leases}) < len(leases))
