"""The screen: which of the messages just received need no run, looked up before they are delivered."""

from collections.abc import Sequence

import structlog

from config.settings import Settings
from pipeline.jobs import Closing, JobFilled, JobStore, PartRef, Ref, SplitFilled
from pipeline.registry import Registry
from pipeline.transport.lease import Lease
from pipeline.worker.outcome import AlreadyDone, Failed
from pipeline.worker.patience import Abandoned, Patience
from pipeline.worker.work import header_of, ref_of

log = structlog.get_logger(__name__)

#: SQS forgets a deduplication id after 5 minutes (SendMessage, API reference), so a message sent later than
#: this after its job was submitted (seconds, less a margin) may be a replay of one that is done.
DEDUPLICATION_WINDOW = 240.0


class Screen:
    """Looks up only what may have been run before: redelivered, or sent late in its job."""

    def __init__(self, settings: Settings, registry: Registry, store: JobStore, patience: Patience) -> None:
        self._settings = settings
        self._registry = registry
        self._store = store
        self._patience = patience

    def __call__(self, leases: Sequence[Lease]) -> Sequence[Lease]:
        """Put a verdict on those that need no run; the leases to hold.

        While the table is out of reach none is held: they come again when their leases end.
        """
        suspects = [lease for lease in leases if self._may_have_run(lease)]
        if suspects:
            try:
                self._look_up(suspects)
            except Abandoned:
                return []
        return leases

    @staticmethod
    def _may_have_run(lease: Lease) -> bool:
        if lease.problem is not None:
            return False
        if lease.message.receive_count > 1:
            return True
        header = header_of(lease)
        return header is not None and lease.message.sent_at > header.submitted_at + DEDUPLICATION_WINDOW

    def _look_up(self, suspects: Sequence[Lease]) -> None:
        refs = {id(lease): ref_of(header) for lease in suspects if (header := header_of(lease)) is not None}
        if refs:
            found = self._patience.one("look up done", lambda: self._store.already_done(refs.values()))
            for lease in suspects:
                ref = refs.get(id(lease))
                if ref in found.refs:
                    lease.verdict = AlreadyDone(closings=_closings_of(ref, found.closings))
        messages = {_key(lease): lease for lease in suspects if lease.verdict is None}
        counts = self._patience.one("look up attempts", lambda: self._store.attempts(list(messages)))
        for key, lease in messages.items():
            lease.attempts = counts.get(key, 0)
            if lease.attempts > self._retries(lease):
                lease.verdict = Failed(
                    error="AttemptsUsedUp", message=f"all {lease.attempts} attempts failed", permanent=True
                )

    def _retries(self, lease: Lease) -> int:
        header = header_of(lease)
        stage = self._registry.by_name.get(header.stage) if header else None
        return self._settings.max_retries if stage is None or stage.retries is None else stage.retries


def _key(lease: Lease) -> tuple[str, str]:
    return str(lease.payload["headers"]["id"]), lease.message.message_id


def _closings_of(ref: Ref | None, closings: Sequence[Closing]) -> tuple[Closing, ...]:
    """Those a crash left open that this task's recording had filled."""
    return tuple(
        closing
        for closing in closings
        if (isinstance(closing, SplitFilled) and isinstance(ref, PartRef) and closing.split == ref.split)
        or (isinstance(closing, JobFilled) and ref is not None and closing.job.job_id == ref.job_id)
    )
