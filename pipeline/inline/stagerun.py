"""The run of one event in one stage, from its first look-up to its settlement, without a queue in between.

However it starts (the first time, by a retry, after a crash, as a copy of an event), it looks up what is done
and does the rest. It is over only when nothing is left of its event: the run, or all parts and their gather.
So nothing that is due lives in memory alone, and the event's offset may be committed when it is over.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import structlog

from pipeline.errors import PermanentError
from pipeline.inline.runtime import Counts, InlineRuntime, lease_of
from pipeline.jobs import (
    PartRef,
    SealedPart,
    SealedSplit,
    SplitFilled,
    StageRef,
    ref_of,
    split_ref,
    tolerated_parts,
)
from pipeline.ledger import gather_of
from pipeline.patience import Abandoned
from pipeline.transport.lease import Lease
from pipeline.wire import taskmessage
from pipeline.wire.taskmessage import TaskHeader, TaskMessage, generation_of
from pipeline.worker.child.outcome import AlreadyDone, Cancelled, Failed, Succeeded, failed
from pipeline.worker.lookup import SUSPECT_BEYOND
from pipeline.worker.settle.retry import Retries, final_failure
from pipeline.worker.settle.work import Work, count, count_failures

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class Ended:
    """Nothing is left of the run. ``failure``: why its event is a dead letter; None where it is done."""

    failure: Failed | None = None
    #: Failed attempts of the task that failed.
    attempts: int = 0


@dataclass(frozen=True, kw_only=True)
class Again:
    """The run goes on after so many seconds."""

    seconds: float


class StageRun:
    """One event in one stage. One thread at a time."""

    def __init__(
        self,
        runtime: InlineRuntime,
        task: TaskMessage,
        queue: str,
        *,
        mark: bool,
        is_lost: Callable[[], bool],
    ) -> None:
        """``mark``: it may have been started before (``InlineRuntime.run``).

        ``is_lost``: whether the event is another process's by now: a run that ends then has no effect.
        """
        self._runtime = runtime
        self._queue = queue
        self._mark = mark
        self._is_lost = is_lost
        self._event = lease_of(task, queue)
        assert self._event.header is not None
        self._header: TaskHeader = self._event.header
        self._stage = runtime.registry.by_name[self._header.stage]
        #: By message id, of tasks that are not done, as far as they are known.
        self._counts: dict[str, Counts] = {}
        #: By message id, the tasks that are not retried.
        self._given_up: dict[str, Work] = {}
        #: Seconds until all tasks that failed may be retried; None when none is to be.
        self._delay: float | None = None
        self._retries = Retries(
            runtime.settings,
            runtime.registry,
            self._retry_later,
            runtime.store.attempts,
            runtime.patience,
            longest=math.inf,
        )

    def proceed(self) -> Again | Ended:
        """Do what can be done now; call it again when it is not over.

        Waits for services that are away. Raises ``Abandoned`` when this process stops or the event is lost.
        """
        self._delay = None
        whole = StageRef(job_id=self._header.job_id, stage=self._header.stage)
        if whole in self._runtime.look_up_done([whole]):
            self._runtime.completion.complete([Work(lease=self._event, outcome=AlreadyDone())], [])
            return Ended()
        if self._is_cancelled():
            return self._skip()
        try:
            return self._run_split() if self._stage.is_split else self._finish(self._event)
        except PermanentError as error:
            return Ended(failure=failed(error))

    def _is_cancelled(self) -> bool:
        return self._header.job_id in self._runtime.cancelled_jobs

    def _skip(self) -> Ended:
        work = Work(lease=self._event, outcome=Cancelled())
        count(work)
        log.info("task.cancelled", **work.log_fields(self._event.attempts))
        return Ended()

    # ─── A split stage ───

    def _run_split(self) -> Again | Ended:
        sealed = self._sealed()
        if sealed is None:
            if (verdict := self._finish(self._event)) != Ended():
                return verdict
            sealed = self._sealed()
        if sealed is None:
            raise PermanentError(f"The split {self._header.split_id} ended without being sealed.")
        self._run_parts(sealed)
        if self._is_cancelled():
            return self._skip()
        if self._delay is not None or (self._given_up and not self._tolerates(sealed)):
            return self._verdict()
        missing, self._given_up = self._given_up, {}
        ended = self._finish(self._lease(gather_of(self._runtime.registry, sealed)))
        self._given_up |= missing if isinstance(ended, Again) else {}
        if ended == Ended():
            # Not before its gather is recorded: a closed split is not run again after a crash.
            self._runtime.ledger.mark_closed([SplitFilled(split=sealed.split, total=sealed.total)])
        return ended

    def _sealed(self) -> SealedSplit | None:
        ref = split_ref(self._header)
        return self._runtime.patience.one("read split", lambda: self._runtime.store.splits.sealed(ref))

    def _run_parts(self, sealed: SealedSplit) -> None:
        """Run the parts that are not done, one for each child at a time; one by one where order counts."""
        together = 1 if self._stage.ordered else self._runtime.children.processes
        for page in self._pages(sealed):
            left = self._not_done([self._part(sealed, part) for part in page])
            for start in range(0, len(left), together):
                if self._is_cancelled():
                    return
                self._try(left[start : start + together])
                if self._stage.ordered and self._delay is not None:
                    # Later parts wait while this one is retried.
                    return

    def _pages(self, sealed: SealedSplit) -> Iterator[Sequence[SealedPart]]:
        yield sealed.inline_parts
        for page in range(sealed.pages):
            yield self._runtime.patience.one(
                "read parts",
                lambda page=page: self._runtime.store.splits.page(sealed, page),  # type: ignore[misc]
            )

    def _part(self, sealed: SealedSplit, part: SealedPart) -> Lease:
        trace = Work(lease=self._event, outcome=Succeeded(result=None, summary="", seconds=0)).trace
        return self._lease(
            taskmessage.for_part(
                self._stage,
                self._header,
                part.ordinal,
                sealed.total,
                part.data,
                trace,
                keeps=sealed.keeps,
                entity=part.entity,
            )
        )

    def _not_done(self, parts: Sequence[Lease]) -> list[Lease]:
        refs = {id(part): ref_of(part.header) for part in parts if part.header}
        done = self._runtime.look_up_done(list(refs.values())) if refs else ()
        return [part for part in parts if refs[id(part)] not in done]

    def _tolerates(self, sealed: SealedSplit) -> bool:
        """Whether the gather runs without the parts that are given up."""
        tolerated = tolerated_parts(sealed.tolerate, sealed.total)
        parts = [
            work
            for work in self._given_up.values()
            if work.header and isinstance(ref_of(work.header), PartRef)
        ]
        return len(parts) <= tolerated and self._runtime.give_up_parts(parts)

    # ─── A task ───

    def _finish(self, lease: Lease) -> Again | Ended:
        """Run the task; return the verdict on the whole."""
        self._try([lease])
        return self._verdict()

    def _try(self, leases: Sequence[Lease]) -> None:
        """Run and settle tasks that are not given up."""
        startable = self._startable([lease for lease in leases if lease.message_id not in self._given_up])
        if not any(lease.suspect for lease in startable):
            self._run(startable)
            return
        # One at a time and until it is settled, so that only the task that ends the process is blamed.
        with self._runtime.suspect_lock:
            for lease in startable:
                self._run([lease])

    def _run(self, leases: Sequence[Lease]) -> None:
        works = self._runtime.run(leases, mark=self._mark)
        if self._is_lost():
            raise Abandoned
        unsuccessful = [work for work in works if isinstance(work.outcome, Failed)]
        given_up = self._retries.retry(unsuccessful)
        count_failures(unsuccessful, given_up)
        for work in unsuccessful:
            starts = self._counts[work.lease.message_id].starts
            self._counts[work.lease.message_id] = Counts(work.lease.attempts, starts + self._mark)
        self._note_given_up(given_up)
        # Sealing, by the child, is the whole effect of a split's own run.
        done = [work for work in works if isinstance(work.outcome, Succeeded) and work.role != "split"]
        refused: list[Work] = []
        self._runtime.completion.complete(done, refused)
        for work in done:
            # Not started again here. Of a split with millions of parts, each would stay in memory.
            del self._counts[work.lease.message_id]
        self._retries.retry(refused)
        count_failures(refused, refused)
        self._note_given_up(refused)

    def _startable(self, leases: Sequence[Lease]) -> list[Lease]:
        """Return those with attempts left; each gets a number that none of its runs before had."""
        if unknown := [lease for lease in leases if lease.message_id not in self._counts]:
            self._counts |= self._runtime.look_up_counts(unknown)
        startable = []
        for lease in leases:
            attempts, starts, verdict = self._counts[lease.message_id]
            lease.attempts = attempts
            lease.message = replace(lease.message, receive_count=attempts + starts + 1)
            lease.suspect = starts + 1 > attempts + SUSPECT_BEYOND
            final = final_failure(lease, verdict, self._runtime.settings, self._runtime.registry)
            if final is not None:
                self._note_given_up([Work(lease=lease, outcome=final)])
            else:
                startable.append(lease)
        return startable

    def _note_given_up(self, works: Sequence[Work]) -> None:
        self._given_up |= {work.lease.message_id: work for work in works}

    def _retry_later(self, _: Lease, seconds: float) -> None:
        self._delay = max(seconds, self._delay or 0.0)

    def _verdict(self) -> Again | Ended:
        if self._delay is not None:
            return Again(seconds=self._delay)
        for work in self._given_up.values():
            assert isinstance(work.outcome, Failed)
            named = replace(work.outcome, message=_named(work, work.outcome))
            return Ended(failure=named, attempts=work.lease.attempts)
        return Ended()

    def _lease(self, message: TaskMessage) -> Lease:
        """Return the lease of a part or gather: it is redriven with its event, and has all attempts then."""
        generation = generation_of(self._event.message.attributes)
        return lease_of(replace(message, generation=generation), self._queue)


def _named(work: Work, failure: Failed) -> str:
    """Return the failure's message, with the part or role of its task where the stage has several."""
    header = work.header
    if header is None or header.role == "run":
        return failure.message
    part = f"part {header.part.ordinal} of {header.part.total}" if header.part else header.role
    return f"{part}: {failure.message}"
