"""One event in one stage, run here from its first look-up to its settlement: without a queue in between.

However it is begun (the first time, by a retry, after a crash, as a copy of an event), it looks up what is
done and does the rest. It is over only when nothing is left of its event: the run, or all parts and their
gather. So nothing that is due lives in memory alone, and its offset may be committed when it is over.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from pipeline import taskmessage
from pipeline.errors import PermanentError
from pipeline.jobs import PartRef, SealedSplit, SplitFilled, StageRef
from pipeline.patience import Abandoned
from pipeline.sqs import OutgoingMessage
from pipeline.taskmessage import TaskHeader, TaskMessage, generation_of
from pipeline.transport.lease import Lease
from pipeline.worker.closing import gather_of
from pipeline.worker.counting import count_failures
from pipeline.worker.outcome import Failed, Succeeded, failed
from pipeline.worker.retry import Retries, retries_of
from pipeline.worker.running import Counts, Running, lease_of
from pipeline.worker.screen import SUSPECT_BEYOND
from pipeline.worker.work import Work, ref_of, split_ref


@dataclass(frozen=True, kw_only=True)
class Ended:
    """Nothing is left of it. ``failure``: why it is a dead letter; None where it is done."""

    failure: Failed | None = None
    #: Failed runs of what failed.
    attempts: int = 0


@dataclass(frozen=True, kw_only=True)
class Again:
    """It is to go on after so many seconds."""

    seconds: float


class StageRun:
    """One event in one stage. One thread at a time."""

    def __init__(
        self, running: Running, task: OutgoingMessage, queue: str, *, mark: bool, lost: Callable[[], bool]
    ) -> None:
        """``mark``: it may have been begun before (``Running.run``).

        ``lost``: whether the event is another process's by now: what still runs here leaves nothing behind.
        """
        self._running = running
        self._queue = queue
        self._mark = mark
        self._lost = lost
        self._event = lease_of(task, queue)
        assert self._event.header is not None
        self._header: TaskHeader = self._event.header
        self._stage = running.registry.by_name[self._header.stage]
        #: By message id, as far as they are known.
        self._counts: dict[str, Counts] = {}
        #: By message id, what is not tried again.
        self._given_up: dict[str, Work] = {}
        #: Seconds until all that failed may be tried again; None when nothing is to be.
        self._delay: float | None = None
        self._retries = Retries(
            running.settings,
            running.registry,
            self._try_later,
            running.store,
            running.patience,
            longest=math.inf,
        )

    def proceed(self) -> Again | Ended:
        """Do what can be done now; when it is not over, call it again.

        Waits for services that are away. Raises ``Abandoned`` when this process stops or the event is lost.
        """
        self._delay = None
        whole = StageRef(job_id=self._header.job_id, stage=self._header.stage)
        if whole in self._running.done([whole]).refs:
            self._running.settle_done(self._event)
            return Ended()
        if self._is_cancelled():
            self._running.skip(self._event)
            return Ended()
        try:
            if self._stage.is_split:
                return self._run_split()
            return self._finish(self._event)
        except PermanentError as error:
            return Ended(failure=failed(error))

    def _is_cancelled(self) -> bool:
        return self._header.job_id in self._running.cancelled_jobs

    # ─── A split stage ───

    def _run_split(self) -> Again | Ended:
        sealed = self._sealed()
        if sealed is None:
            # Its run seals it: that is its whole effect.
            if not self._try([self._event]):
                return self._verdict()
            sealed = self._sealed()
        if sealed is None:
            raise PermanentError(f"The split {self._header.split_id} ended without being sealed.")
        self._run_parts(sealed)
        if self._is_cancelled():
            self._running.skip(self._event)
            return Ended()
        if self._delay is not None or (self._given_up and not self._goes_on(sealed)):
            return self._verdict()
        missing, self._given_up = self._given_up, {}
        ended = self._finish(self._lease(gather_of(self._running.registry, sealed)))
        self._given_up |= missing if isinstance(ended, Again) else {}
        if ended == Ended():
            self._running.close_split(SplitFilled(split=sealed.split, total=sealed.total))
        return ended

    def _sealed(self) -> SealedSplit | None:
        ref = split_ref(self._header)
        return self._running.patience.one("read split", lambda: self._running.store.split(ref))

    def _run_parts(self, sealed: SealedSplit) -> None:
        """Those that are not done, as many together as there are children; one by one where order counts."""
        together = 1 if self._stage.ordered else self._running.children.processes
        for page in self._pages(sealed):
            left = self._not_done([self._part(sealed, *part) for part in page])
            for start in range(0, len(left), together):
                if self._is_cancelled():
                    return
                self._settle(self._try(left[start : start + together]))
                if self._stage.ordered and self._delay is not None:
                    # Nothing that is behind it runs first.
                    return

    def _pages(self, sealed: SealedSplit) -> Iterator[Sequence[tuple[int, str]]]:
        yield list(enumerate(sealed.inline))
        for page in range(sealed.pages):
            yield self._running.patience.one(
                "read parts",
                lambda page=page: self._running.store.page(sealed, page),  # type: ignore[misc]
            )

    def _part(self, sealed: SealedSplit, ordinal: int, data: str) -> Lease:
        trace = Work(lease=self._event, outcome=Succeeded(result=None, summary="", seconds=0)).trace
        return self._lease(
            taskmessage.for_part(self._stage, self._header, ordinal, sealed.total, data, trace)
        )

    def _not_done(self, parts: Sequence[Lease]) -> list[Lease]:
        refs = {id(part): ref_of(part.header) for part in parts if part.header}
        done = self._running.done(list(refs.values())).refs if refs else frozenset()
        return [part for part in parts if refs[id(part)] not in done]

    def _goes_on(self, sealed: SealedSplit) -> bool:
        """Whether the gather runs without the parts that are given up."""
        tolerated = int(sealed.tolerate * sealed.total)
        parts = [work for work in self._given_up.values() if isinstance(_ref(work), PartRef)]
        return len(parts) <= tolerated and self._running.go_on_without(parts)

    # ─── A task ───

    def _finish(self, lease: Lease) -> Again | Ended:
        """Run what the stage ends with, and settle it."""
        self._settle(self._try([lease]))
        return self._verdict()

    def _try(self, leases: Sequence[Lease]) -> list[Work]:
        """Run these, but for those given up; what ended well, not yet settled. The rest is noted."""
        going = self._startable([lease for lease in leases if lease.message_id not in self._given_up])
        works = self._running.run(going, mark=self._mark)
        if self._lost():
            raise Abandoned
        unsuccessful = [work for work in works if isinstance(work.outcome, Failed)]
        given_up = self._retries.again(unsuccessful)
        count_failures(unsuccessful, given_up)
        for work in unsuccessful:
            counts = self._counts[work.lease.message_id]
            self._counts[work.lease.message_id] = Counts(work.lease.attempts, counts.begun + self._mark)
        self._note_given_up(given_up)
        return [work for work in works if isinstance(work.outcome, Succeeded)]

    def _startable(self, leases: Sequence[Lease]) -> list[Lease]:
        """Those with attempts left; each knows its number, which none of its runs before had."""
        if unknown := [lease for lease in leases if lease.message_id not in self._counts]:
            self._counts |= self._running.counts(unknown)
        startable = []
        for lease in leases:
            attempts, begun = self._counts[lease.message_id]
            lease.attempts = attempts
            lease.message = replace(lease.message, receive_count=attempts + begun + 1)
            lease.suspect = begun + 1 > attempts + SUSPECT_BEYOND
            if attempts > retries_of(lease, self._running.settings, self._running.registry):
                used_up = Failed(
                    error="AttemptsUsedUp", message=f"all {attempts} attempts failed", permanent=True
                )
                self._note_given_up([Work(lease=lease, outcome=used_up)])
            else:
                startable.append(lease)
        return startable

    def _settle(self, works: Sequence[Work]) -> None:
        if works:
            refused = self._running.settle(works)
            count_failures(refused, refused)
            self._note_given_up(refused)

    def _note_given_up(self, works: Sequence[Work]) -> None:
        self._given_up |= {work.lease.message_id: work for work in works}

    def _try_later(self, _: Lease, seconds: float) -> None:
        self._delay = max(seconds, self._delay or 0.0)

    def _verdict(self) -> Again | Ended:
        if self._delay is not None:
            return Again(seconds=self._delay)
        for work in self._given_up.values():
            failure = work.outcome
            assert isinstance(failure, Failed)
            named = replace(failure, message=_named(work, failure))
            return Ended(failure=named, attempts=work.lease.attempts)
        return Ended()

    def _lease(self, message: TaskMessage) -> Lease:
        """A part or gather: it is redriven with its event, and has all its attempts again then."""
        generation = generation_of(self._event.message.attributes)
        return lease_of(OutgoingMessage(**replace(message, generation=generation).to_sqs()), self._queue)


def _ref(work: Work) -> object:
    return ref_of(work.header) if work.header else None


def _named(work: Work, failure: Failed) -> str:
    """What failed of its stage, where the stage is more than one task."""
    header = work.header
    if header is None or header.role == "run":
        return failure.message
    part = f"part {header.part.ordinal} of {header.part.total}" if header.part else header.role
    return f"{part}: {failure.message}"
