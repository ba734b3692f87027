"""JobStore: everything others do with jobs. Who calls it emits and sends; it only records.

A worker settles in this order: store a part's result (``put_results``) or emit the event → ``record`` →
act on what ``record`` says is to be closed → ``close`` → delete the message. A reply that was lost, or a
crash in between, is repaired by doing all of it again.
"""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

from config.settings import Settings
from pipeline.errors import ResultTooLargeError, ServiceError
from pipeline.jobs.attempts import Attempts
from pipeline.jobs.counter import Counter
from pipeline.jobs.keys import Keys
from pipeline.jobs.listing import Listing
from pipeline.jobs.model import (
    AlreadyDone,
    Closing,
    Done,
    Failed,
    FailureRecord,
    Filled,
    Job,
    JobFilled,
    JobPage,
    JobState,
    NewJob,
    PartPage,
    PartResult,
    Recorded,
    Ref,
    SealedSplit,
    SplitRef,
    StageProgress,
)
from pipeline.jobs.outcomes import Outcomes
from pipeline.jobs.partlist import PartList
from pipeline.jobs.records import Records
from pipeline.jobs.resumption import Resumption
from pipeline.jobs.schema import TableReport, inspect_table, provision_table
from pipeline.jobs.splits import Splits
from pipeline.jobs.table import Table
from pipeline.jobs.wire import below

DAY = 86_400


class JobStore:
    """The jobs of one service. Threads may share it; it may be carried through a fork."""

    def __init__(
        self, settings: Settings, *, table: Table | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        """``table`` and ``clock`` are given by tests only."""
        self._table = table or Table(settings.dynamodb_table)
        self._keys = Keys(service=settings.service_name)
        self._clock = clock
        self._expiry_days = settings.job_expiry_days
        self._records = Records(self._table, self._keys, self._expiry, clock)
        self._counter = Counter(self._table, self._keys, self._expiry)
        self._splits = Splits(self._table, self._keys, self._expiry)
        self._attempts = Attempts(self._table, self._keys, self._expiry)
        self._outcomes = Outcomes(
            self._table, self._keys, self._records, self._counter, self._splits, self._expiry
        )
        self._resumption = Resumption(
            self._table, self._keys, self._records, self._counter, self._outcomes.after_climb
        )
        self._partlist = PartList(self._table, self._keys, self._counter)
        self._listing = Listing(
            self._table, self._keys, self._records, self._counter, clock, settings.job_expiry_days
        )

    # ─── The table ───

    def provision(self, update: bool = False) -> TableReport:
        """Make the table when it is missing; say what differs, and change that only with ``update``."""
        return provision_table(self._table.name, update)

    def inspect(self) -> TableReport:
        """What is there and what differs, changing nothing."""
        return inspect_table(self._table.name)

    # ─── Jobs ───

    def open_jobs(self, jobs: Sequence[NewJob]) -> list[bool | ServiceError]:
        """Write jobs' records, before the first event of each is sent or committed.

        False: it was there already, and stays as it is. An error stands in the place of the job it is about.
        """
        return self._records.open_many(jobs)

    def job(self, job_id: str) -> Job | None:
        """A job as it is now."""
        return self._records.get(job_id)

    def progress(self, job_id: str) -> tuple[Job, list[StageProgress]] | None:
        """A job and how far each of its stages is; None when there is no such job."""
        return self._listing.progress(job_id)

    def failures(self, job_id: str) -> Iterator[FailureRecord]:
        """Why tasks of a job are dead letters, those that were not redriven."""
        return self._listing.failures(job_id)

    def part_page(
        self, job_id: str, stage: str, *, after: int | None = None, limit: int = 100
    ) -> PartPage | None:
        """A page of the parts of a stage's split, by ordinal; None when it was not split (yet).

        ``after`` is the ``next`` of the page before. Reads what is stored of these parts, results included.
        """
        return self._partlist.page(job_id, stage, after, limit)

    def progress_of(self, jobs: Sequence[Job]) -> list[list[StageProgress]]:
        """How far the stages of each of some jobs are, in few requests."""
        return self._listing.progress_of(jobs)

    def jobs(
        self,
        state: JobState | None = None,
        *,
        limit: int = 50,
        before: str | None = None,
        entity_id: str | None = None,
        since: float | None = None,
        days: int | None = None,
    ) -> JobPage:
        """A page of jobs, newest submission first. ``before`` is the ``next`` of the page before.

        None submitted before ``since`` (seconds since 1970). Of an entity, or with ``days``, it looks at a
        bounded number of jobs, or days of submissions, and no more: then the page may be short, or empty, and
        still have a ``next``.
        """
        return self._listing.jobs(state, limit, before, entity_id=entity_id, since=since, days=days)

    def jobs_named(self, job_ids: Iterable[str]) -> list[Job]:
        """Those of the jobs that are there, as a list shows them: it may be a moment behind."""
        return self._records.get_many(job_ids)

    def open_before(self, moment: float, *, limit: int = 50, after: str | None = None) -> JobPage:
        """A page of jobs that run and were submitted before a moment, oldest first.

        ``after`` is the ``next`` of the page before.
        """
        return self._listing.open_since(moment, limit, after or "")

    def take_turn(self, name: str, seconds: float) -> bool:
        """Whether a periodic duty is this caller's now; nobody else's turn comes within ``seconds``."""
        now = self._clock()
        updated = self._table.update(
            self._keys.turn(name),
            put={"until": now + seconds, "exp": self._expiry()},
            when=below("until", now),
        )
        return updated.applied

    def cancel(self, job_id: str) -> Job | None:
        """Cancel a job that runs; the job as it is then, None when there is none.

        It is cancelled when its state says so, and that is final; a job that ended before stays as it was, as
        does one whose last stage is done. Workers skip what of it has not started (``cancelled_since``). To
        be said again when a reply was lost.
        """
        job = self._records.cancel(job_id)
        if job is not None and job.state is JobState.CANCELLED:
            # After the job's own record: a task is skipped only when nothing waits for it any more.
            self._table.update(self._keys.cancellation(job_id, self._clock()), put={"exp": self._expiry()})
        return job

    def cancelled_since(self, moment: float) -> set[str]:
        """The ids of jobs cancelled at that moment or later, by the clocks of those who cancelled them."""
        since = self._keys.cancellation("", moment)[1]
        found = self._table.query(self._keys.cancellations(), since=since, until=":", attributes=("sk",))
        return {item["sk"].split("#", 1)[1] for item in found}

    # ─── Settlement ───

    def already_done(self, refs: Iterable[Ref]) -> AlreadyDone:
        """Which of these tasks need no run, with what a crash between recording and closing left open.

        The closings are to be acted on like those of ``record`` before the messages are deleted.
        """
        return self._outcomes.already_done(refs)

    def recheck(self, job_id: str) -> Sequence[Closing]:
        """What a job's record says is to be closed now.

        The settlement of a redriven task (generation above 0) ends with it: the redrive took the job as
        running again, and what is left of it may have ended before, without another write to its record.
        """
        return self._records.recheck(job_id)

    def resume(self, job_id: str) -> Sequence[Closing]:
        """What of a job ended and was not closed, because whoever recorded the last of it died there.

        Reads every leaf of the job's splits that are not gathered: for jobs that stopped moving.
        """
        return self._resumption.resume(job_id)

    def put_results(self, results: Sequence[PartResult]) -> list[ServiceError | ResultTooLargeError | None]:
        """Store the results of parts before they are recorded done; the first of a part stays."""
        return self._splits.put_results(results)

    def record(self, done: Sequence[Done]) -> Recorded:
        """Record what ended well, coalesced: one write a leaf, up to 25 stages a request.

        An outcome with an error is to be recorded again; the others are not affected by it.
        """
        return self._outcomes.record(done)

    def record_failed(self, failed: Sequence[Failed]) -> Recorded:
        """Record dead letters: why, then that they failed, and what that ends."""
        return self._outcomes.record_failed(failed)

    def close_all(self, filled: Sequence[Filled]) -> list[bool | ServiceError]:
        """Close many at once; an error stands in the place of what it is about."""
        return self._table.each(self.close, filled)

    def close(self, filled: Filled) -> bool:
        """Mark as closed, once its job-complete event or gather is acknowledged. False: it was already."""
        if isinstance(filled, JobFilled):
            return self._records.close(filled.job)
        return self._counter.close(filled.split, filled.total, self._clock())

    def redrive(self, refs: Sequence[tuple[Ref, int]]) -> list[bool | ServiceError]:
        """Take dead letters (with the generation they failed in) as running again, before they are sent.

        The message that is sent carries the next generation. False: the task is done after all, or its job
        complete or cancelled, so the dead letter is only to be removed. Saying it again goes on where a crash
        stopped it.
        """
        return self._outcomes.redrive(refs)

    # ─── Splits ───

    def split(self, split: SplitRef) -> SealedSplit | None:
        """The sealed split: then its user code must not run again. None: not sealed yet."""
        return self._splits.sealed(split)

    def splits(self, splits: Iterable[SplitRef]) -> dict[SplitRef, SealedSplit]:
        """Those of the splits that are sealed, read together."""
        return self._splits.sealed_many(splits)

    def seal(
        self, split: SplitRef, header: str, data: str, parts: Iterable[str], tolerate: float = 0
    ) -> SealedSplit:
        """Fix the parts (JSON) of a split for ever, reading them as they come. Send them only afterwards.

        ``header`` and ``data`` (JSON) are kept, so that anybody can make the gather's message. When another
        run sealed the split first, its parts are returned, not these. Raises what ``parts`` raises, and
        ``ResultTooLargeError`` for a part over 380 KB. ``tolerate``: the share of the parts that may fail and
        the gather runs all the same.
        """
        return self._splits.seal(split, header, data, parts, tolerate)

    def parts(self, sealed: SealedSplit) -> Iterator[tuple[int, str]]:
        """Every part (JSON) with its ordinal, fetched page by page."""
        return self._splits.parts(sealed)

    def page(self, sealed: SealedSplit, page: int) -> list[tuple[int, str]]:
        """The parts of one of ``sealed.pages`` pages, with their ordinals."""
        return self._splits.page(sealed, page)

    def missing(self, sealed: SealedSplit) -> frozenset[int]:
        """The ordinals of the parts that a split's gather goes on without, fixed before it was sent."""
        if not sealed.tolerate:
            return frozenset()
        return self._counter.missing(sealed.split, sealed.total)

    def results(self, split: SplitRef, total: int, missing: Collection[int] = ()) -> Iterator[str]:
        """The results (JSON) of all parts but ``missing``, in order; ``PermanentError`` when one is gone."""
        return self._splits.results(split, total, missing)

    # ─── Attempts ───

    def add_attempt(self, task_id: str, message_id: str, receive_count: int) -> int:
        """Record one failed attempt of a message; how many there are now. Twice the same counts once."""
        return self._attempts.add(task_id, message_id, receive_count)

    def attempts(self, messages: Iterable[tuple[str, str]]) -> dict[tuple[str, str], int]:
        """How many attempts each message (task id, message id) had."""
        return self._attempts.count(messages)

    def _expiry(self) -> int:
        return int(self._clock()) + self._expiry_days * DAY
