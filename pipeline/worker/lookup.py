"""The screen: what is known of the messages just received, before any is delivered.

Which can become no task, which were done before, which used up their attempts, and which may be killing
workers.
"""

import math
import time
from collections.abc import Sequence

from config.settings import Settings
from pipeline.errors import InvalidInputError, MessageRefusedError
from pipeline.jobs import Closing, JobFilled, JobStore, PartRef, Ref, SplitFilled
from pipeline.patience import Abandoned, Patience
from pipeline.registry import Registry
from pipeline.taskmessage import read_header
from pipeline.transport.fifo import seconds_until
from pipeline.transport.lease import LONGEST_HOLD, Lease
from pipeline.worker.outcome import AlreadyDone, Failed
from pipeline.worker.retry import retries_of
from pipeline.worker.work import ref_of

#: SQS forgets a deduplication id after 5 minutes (SendMessage, API reference), so a message sent later than
#: this after its job was submitted (seconds, less a margin) may be a replay of one that is done.
DEDUPLICATION_WINDOW = 240.0
#: A message received this much more often than it failed and waited may be what ends the workers. Those
#: behind a failing head and those of workers that were stopped are received for nothing too, but they
#: run well then.
SUSPECT_BEYOND = 3


class Screen:
    """Looks up only what may have been run before: redelivered, or sent late in its job."""

    def __init__(self, settings: Settings, registry: Registry, store: JobStore, patience: Patience) -> None:
        self._settings = settings
        self._registry = registry
        self._store = store
        self._patience = patience

    def __call__(self, leases: Sequence[Lease]) -> Sequence[Lease]:
        """Fill in what is known of each; the leases to hold.

        While the table is out of reach none is held: they come again when their leases end.
        """
        for lease in leases:
            _read_header(lease)
        suspects = [lease for lease in leases if _may_have_run(lease)]
        if suspects:
            try:
                self._look_up_all(suspects)
            except Abandoned:
                return []
        return leases

    def _look_up_all(self, suspects: Sequence[Lease]) -> None:
        """Look up together. One that the table refuses for what stands in it is no task; the others may be.

        Raises the ServiceRefusedError of a table that refuses whatever it is asked.
        """
        try:
            self._look_up(suspects)
        except MessageRefusedError as error:
            if len(suspects) > 1:
                for lease in suspects:
                    self._look_up_all([lease])
                return
            suspects[0].header, suspects[0].problem = None, str(error)

    def _look_up(self, suspects: Sequence[Lease]) -> None:
        refs = {id(lease): ref_of(lease.header) for lease in suspects if lease.header is not None}
        if refs:
            found = self._patience.one("look up done", lambda: self._store.already_done(refs.values()))
            for lease in suspects:
                ref = refs.get(id(lease))
                if ref in found.refs:
                    lease.verdict = AlreadyDone(closings=_closings_of(ref, found.closings))
        # What is received for the first time never failed, and a job may have 100,000 parts that are late.
        again = [each for each in suspects if each.verdict is None and each.message.receive_count > 1]
        messages = {_key(lease): lease for lease in again}
        counts = self._patience.one("look up attempts", lambda: self._store.attempts(list(messages)))
        for key, lease in messages.items():
            self._judge(lease, counts.get(key, 0))

    def _judge(self, lease: Lease, attempts: int) -> None:
        lease.attempts = attempts
        lease.suspect = lease.message.receive_count > attempts + _waits(lease) + SUSPECT_BEYOND
        if attempts > retries_of(lease, self._settings, self._registry):
            lease.verdict = Failed(
                error="AttemptsUsedUp", message=f"all {attempts} attempts failed", permanent=True
            )


def _read_header(lease: Lease) -> None:
    if lease.problem is not None:
        return
    try:
        lease.header = read_header(lease.payload["headers"])
    except InvalidInputError as error:
        lease.problem = str(error)


def _waits(lease: Lease) -> int:
    """How often it was received only to wait on: SQS hides it for ``LONGEST_HOLD`` at a time."""
    eta = lease.payload["headers"].get("eta")
    if eta is None:
        return 0
    due = time.time() + seconds_until(eta)
    return max(0, math.ceil((due - lease.message.sent_at) / LONGEST_HOLD))


def _may_have_run(lease: Lease) -> bool:
    if lease.problem is not None:
        return False
    late = lease.header is not None and (
        lease.message.sent_at > lease.header.submitted_at + DEDUPLICATION_WINDOW
    )
    return late or lease.message.receive_count > 1


def _key(lease: Lease) -> tuple[str, str]:
    return str(lease.payload["headers"]["id"]), lease.message_id


def _closings_of(ref: Ref | None, closings: Sequence[Closing]) -> tuple[Closing, ...]:
    """Those a crash left open that this task's recording had filled."""
    return tuple(
        closing
        for closing in closings
        if (isinstance(closing, SplitFilled) and isinstance(ref, PartRef) and closing.split == ref.split)
        or (isinstance(closing, JobFilled) and ref is not None and closing.job.job_id == ref.job_id)
    )
