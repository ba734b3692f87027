"""Settlement: what follows a task's run. Emit, then record, then close, then delete, in batches.

The order is the promise. Recorded implies emitted, so a recorded task may be skipped safely; deleted
implies recorded, so a crash anywhere is repaired by the redelivery.
"""

import threading
import time
from collections.abc import Sequence
from functools import partial

import structlog

from pipeline.batches import Batches
from pipeline.patience import Abandoned, Patience
from pipeline.telemetry.metrics import timed
from pipeline.transport.inbound import Inbound
from pipeline.transport.lease import Phase
from pipeline.worker.closing import Closer
from pipeline.worker.counting import count, count_failures
from pipeline.worker.deadletter import DeadLetters
from pipeline.worker.effects import Effects
from pipeline.worker.errbacks import publish_errbacks
from pipeline.worker.outcome import AlreadyDone, Cancelled, Discarded, Failed, Returned, Succeeded
from pipeline.worker.retry import Retries
from pipeline.worker.work import Work, keep, traces_of

log = structlog.get_logger(__name__)

#: Threads, each with one batch under way: while one waits for Kafka another waits for DynamoDB.
THREADS = 4
#: The most tasks settled together.
BATCH = 100
#: Fewer than DynamoDB writes in one request wait this long for more (seconds), while tasks come fast and
#: none of their groups waits. Measured at 1,000 tasks/s: half the requests of 0.01.
ENOUGH, LINGER = 25, 0.02


class Settlement:
    """Takes finished work from the worker's event loop and sees it through on threads."""

    def __init__(
        self,
        inbound: Inbound,
        effects: Effects,
        closer: Closer,
        retries: Retries,
        dead_letters: DeadLetters,
        patience: Patience,
    ) -> None:
        self.intake = inbound.intake
        self._disposal = inbound.disposal
        self._effects = effects
        self._closer = closer
        self._retries = retries
        self._dead_letters = dead_letters
        self._patience = patience
        self._arrived: Batches[Work] = Batches(most=BATCH, enough=ENOUGH, linger=LINGER)
        self._threads = [
            threading.Thread(target=self._work, name=f"settlement-{n}", daemon=True) for n in range(THREADS)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, work: Work) -> None:
        """Settle it. Returns at once; safe from any thread."""
        # The next of a group starts once this one is recorded.
        self._arrived.put(work, hurry=self.intake.is_followed(work.lease))

    def close(self, timeout: float) -> bool:
        """Settle what arrived, for at most ``timeout`` seconds; whether all of it was.

        What is not settled stays in SQS: its redelivery repairs it.
        """
        deadline = time.monotonic() + timeout
        self._arrived.end()
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self._patience.end()
        return not any(thread.is_alive() for thread in self._threads)

    def _work(self) -> None:
        while batch := self._arrived.take():
            try:
                self._see_through(batch)
            except Abandoned:
                return

    def _see_through(self, batch: Sequence[Work]) -> None:
        """Settle together; what that leaves unsettled, each for itself: one must not hold up the others."""
        try:
            self._settle(batch)
        except Abandoned:
            raise
        except Exception:
            if len(batch) > 1:
                for work in batch:
                    self._see_through([work])
                return
            # It is not deleted, so it comes again, and the redrive policy ends it if it always fails.
            log.exception("settlement.failed", task_id=batch[0].task_id)
            self._disposal.give_back(batch[0].lease, delay=self._retries.pause)

    def _settle(self, batch: Sequence[Work]) -> None:
        done: list[Work] = []
        splits: list[Work] = []
        unsuccessful: list[Work] = []
        for work in batch:
            if work.lease.phase is not Phase.FINISHED:
                continue  # settled when the batch was tried as a whole
            match work.outcome:
                case Returned(delay=delay):
                    self._disposal.give_back(work.lease, delay)
                    count(work)
                case Discarded() | Cancelled():
                    self._delete(work)
                    count(work)
                case Failed():
                    unsuccessful.append(work)
                case Succeeded() if work.role == "split":
                    splits.append(work)
                case Succeeded() | AlreadyDone():
                    done.append(work)
        self._complete(done, unsuccessful)
        self._give_up_or_back(unsuccessful)
        for split in splits:
            # Sending many parts takes long; nothing else waits for it.
            unsuccessful = []
            self._complete([split], unsuccessful)
            self._give_up_or_back(unsuccessful)

    def _give_up_or_back(self, unsuccessful: Sequence[Work]) -> None:
        """What failed is tried again, or becomes a dead letter."""
        given_up = self._retries.again(unsuccessful)
        self._dead_letters.bury(given_up)
        for work in given_up:
            self._patience.one("errbacks", partial(publish_errbacks, work))
            self._delete(work)
        count_failures(unsuccessful, given_up)

    def _complete(self, done: Sequence[Work], unsuccessful: list[Work]) -> None:
        """Emit, record, close, delete. What can never be emitted or recorded joins ``unsuccessful``."""
        if not done:
            return
        with timed("emit"):
            emitted = keep(done, self._effects.emit(done), unsuccessful)
        with timed("record"):
            recorded, closings = self._effects.record(emitted)
        kept = keep(emitted, recorded, unsuccessful)
        for work in kept:
            self.intake.advance(work.lease)
        with timed("close"):
            self._closer.close(closings, traces_of(kept) if closings else {})
        for work in kept:
            self._delete(work)
            count(work)
            if isinstance(work.outcome, Succeeded):
                log.info("task.done", **work.log_fields(work.lease.attempts + 1))
                work.send_event("task-succeeded", result=work.outcome.summary, runtime=work.outcome.seconds)
            else:
                # Done before this delivery, by a worker that may have died before it could tell Flower.
                work.send_event("task-succeeded")

    def _delete(self, work: Work) -> None:
        self.intake.advance(work.lease)
        self._disposal.delete(work.lease)
