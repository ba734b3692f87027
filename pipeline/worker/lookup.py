"""Look-up of messages just received, before any is delivered.

It finds those that were done before, that used up their attempts, or that may be killing workers.
"""

import math
import time
from collections.abc import Collection, Sequence

import structlog

from pipeline.author.registry import Registry
from pipeline.errors import MessageRefusedError
from pipeline.jobs import (
    Closing,
    JobFilled,
    JobStore,
    PartRef,
    PastAttempts,
    Ref,
    SplitFilled,
    ref_of,
    split_ref,
)
from pipeline.patience import Abandoned, Patience
from pipeline.settings import Settings
from pipeline.transport.lease import LONGEST_HOLD, Lease
from pipeline.transport.publishing import seconds_until
from pipeline.wire.taskmessage import TaskHeader
from pipeline.worker.child.outcome import AlreadyDone
from pipeline.worker.keptresults import keeps_result
from pipeline.worker.settle.retry import final_failure
from pipeline.worker.versions import other_version

log = structlog.get_logger(__name__)

#: SQS forgets a deduplication id after 5 minutes (SendMessage, API reference), so a message sent later than
#: this after its job was submitted (seconds, less a margin) may be a replay of one that is done.
DEDUPLICATION_WINDOW = 240.0
#: A message received this much more often than it failed and waited may be killing the workers. Messages
#: behind a failing head, and those of stopped workers, are received without a run too, but then run well.
SUSPECT_BEYOND = 3


class Lookup:
    """Looks up only messages that may have been run before: redelivered, or sent late in their job."""

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        store: JobStore,
        patience: Patience,
        loop_tasks: Collection[str] = (),
    ) -> None:
        """``loop_tasks``: the names of the tasks that run on loops."""
        self._settings = settings
        self._registry = registry
        self._store = store
        self._patience = patience
        self._loop_tasks = loop_tasks

    def __call__(self, leases: Sequence[Lease]) -> Sequence[Lease]:
        """Set verdict, attempts and suspicion of each lease; return the leases to hold.

        While the table is out of reach none is held: they come again when their leases end.
        """
        try:
            for lease in leases:
                lease.on_loop = lease.headers.get("task") in self._loop_tasks
                self._meet_role(lease)
            suspects = [lease for lease in leases if lease.verdict is None and _may_have_run(lease)]
            if suspects:
                self._look_up_all(suspects)
                _run_tails_again(leases)
        except Abandoned:
            return []
        return leases

    def _meet_role(self, lease: Lease) -> None:
        """Give a task of another version the role that it has in this one, or back to the queue (ADR 20)."""
        header = lease.header
        stage = self._registry.by_name.get(header.stage) if header else None
        if header is None or stage is None:
            return
        met = header.meeting(stage.is_split)
        if met is header:
            return
        sealed = met is not None and met.role == "run" and self._is_sealed(header)
        if met is None or sealed:
            why = f"stage {header.stage!r} has no split here, and this is its {header.role}"
            lease.verdict = other_version(lease, self._settings, why)
        else:
            log.info("task.role_changed", task_id=lease.task_id, stage=stage.name, role=met.role)
            lease.header = met

    def _is_sealed(self, header: TaskHeader) -> bool:
        """Whether parts of a split were sent already: then only the version that split it can end it."""
        ref = split_ref(header)
        return self._patience.one("read split", lambda: self._store.splits.sealed(ref)) is not None

    def _look_up_all(self, suspects: Sequence[Lease]) -> None:
        """Look up all together. A message that the table refuses for its content gets a problem.

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
            found = self._patience.one(
                "look up done", lambda: self._store.resumption.already_done(refs.values())
            )
            for lease in suspects:
                ref = refs.get(id(lease))
                if ref in found.refs:
                    lease.verdict = AlreadyDone(
                        closings=_closings_of(ref, found.closings),
                        finished_at=found.finished_at.get(ref, math.inf),
                    )
        plain = {_key(lease): lease for lease in suspects if lease.header is None and keeps_result(lease)}
        if plain:
            ended = self._patience.one("look up results", lambda: self._store.results.ended_by(plain))
            for key in ended:
                plain[key].verdict = AlreadyDone()
        # A message received for the first time never failed, and a job may have 100,000 late parts.
        again = [each for each in suspects if each.verdict is None and each.message.receive_count > 1]
        messages = {_key(lease): lease for lease in again}
        past = self._patience.one("look up attempts", lambda: self._store.attempts.look_up(list(messages)))
        for key, lease in messages.items():
            self._judge(lease, past[key])

    def _judge(self, lease: Lease, past: PastAttempts) -> None:
        lease.attempts = past.count
        lease.suspect = lease.message.receive_count > past.count + _waits(lease) + SUSPECT_BEYOND
        lease.verdict = final_failure(lease, past.verdict, self._settings, self._registry)


def _waits(lease: Lease) -> int:
    """Return how often it was received before it was due: SQS hides it for ``LONGEST_HOLD`` at a time."""
    eta = lease.headers.get("eta")
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


def _run_tails_again(leases: Sequence[Lease]) -> None:
    """Run tasks again that are done, behind one of their group that is to run again.

    A crash between the writes of one lane may leave the later one recorded. Skipped, its effects would stay
    overwritten by those of the earlier one. A copy that was sent after its task was done is skipped all the
    same.
    """
    again = set()
    for lease in (lease for lease in leases if lease.message.receive_count > 1):
        if lease.verdict is None and lease.problem is None:
            again.add(lease.lane)
        elif lease.lane in again and _done_by_itself(lease):
            lease.verdict = None


def _done_by_itself(lease: Lease) -> bool:
    """Whether a message's task was done by an earlier delivery of the same message."""
    return isinstance(lease.verdict, AlreadyDone) and lease.verdict.finished_at >= lease.message.sent_at


def _key(lease: Lease) -> tuple[str, str]:
    return lease.task_id, lease.message_id


def _closings_of(ref: Ref | None, closings: Sequence[Closing]) -> tuple[Closing, ...]:
    """Return the closings that a crash left open and that recording this task had filled."""
    return tuple(
        closing
        for closing in closings
        if (isinstance(closing, SplitFilled) and isinstance(ref, PartRef) and closing.split == ref.split)
        or (isinstance(closing, JobFilled) and ref is not None and closing.job.job_id == ref.job_id)
    )
