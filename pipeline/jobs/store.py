"""JobStore: everything others do with jobs. Who calls it emits and sends; it only records.

A worker settles in this order: store a part's result (``put_results``) or emit the event → ``record`` →
act on what ``record`` says is to be closed → ``close`` → delete the message. A reply that was lost, or a
crash in between, is repaired by doing all of it again.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from config.settings import Settings
from pipeline.errors import ResultTooLargeError, ServiceError
from pipeline.jobs.attempts import Attempts
from pipeline.jobs.counter import Climb, Counter, Marks, Node, leaf_of
from pipeline.jobs.keys import FAN_OUT, Key, Keys
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
    PartDone,
    PartRef,
    Recorded,
    Ref,
    SealedSplit,
    SplitFilled,
    SplitRef,
    StageDone,
    StageProgress,
    StageRef,
)
from pipeline.jobs.records import Records, register, register_of
from pipeline.jobs.resumption import Resumption
from pipeline.jobs.schema import TableReport, inspect_table, provision_table
from pipeline.jobs.splits import Splits
from pipeline.jobs.table import Table
from pipeline.jobs.wire import Item, below

DAY = 86_400

#: Characters kept of a failure's message: the item stays within one write unit; the errors topic has it all.
MESSAGE_CHARACTERS = 500


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
        self._resumption = Resumption(
            self._table, self._keys, self._records, self._counter, self._after_climb
        )
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

    def open_job(self, job: NewJob) -> bool:
        """Write a job's record before its first event is sent or committed. False: it was there already."""
        return self._records.open(job)

    def open_jobs(self, jobs: Sequence[NewJob]) -> list[bool | ServiceError]:
        """Open many at once; an error stands in the place of the job it is about."""
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

    def jobs(self, state: JobState | None = None, *, limit: int = 50, before: str | None = None) -> JobPage:
        """A page of jobs, newest submission first. ``before`` is the ``next`` of the page before."""
        return self._listing.jobs(state, limit, before)

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

    # ─── Settlement ───

    def already_done(self, refs: Iterable[Ref]) -> AlreadyDone:
        """Which of these tasks need no run, with what a crash between recording and closing left open.

        The closings are to be acted on like those of ``record`` before the messages are deleted.
        """
        keys = {ref: self._done_key(ref) for ref in refs}
        items = self._table.get_many(keys.values())
        done = {ref for ref, key in keys.items() if _is_done(ref, items.get(key, {}))}
        return AlreadyDone(refs=frozenset(done), closings=self._resume(done, keys, items))

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

    def put_results(
        self, results: Sequence[tuple[PartRef, str]]
    ) -> list[ServiceError | ResultTooLargeError | None]:
        """Store the results (JSON) of parts before they are recorded done; the first of a part stays."""
        return self._splits.put_results(results)

    def record(self, done: Sequence[Done]) -> Recorded:
        """Record what ended well, coalesced: one write a leaf, up to 25 stages a request.

        An outcome with an error is to be recorded again; the others are not affected by it.
        """
        errors: dict[int, ServiceError] = {}
        closings = self._record_stages(done, errors)
        leaves: defaultdict[Node, Marks] = defaultdict(Marks)
        for index, outcome in enumerate(done):
            if isinstance(outcome, PartDone):
                marks = leaves[leaf_of(outcome.ref)]
                marks.done.add(outcome.ref.ordinal % FAN_OUT)
                marks.origins.add(index)
        closings += self._after_climb(self._counter.record(leaves), errors)
        return Recorded(errors=[errors.get(index) for index in range(len(done))], closings=closings)

    def record_failed(self, failed: Sequence[Failed]) -> Recorded:
        """Record dead letters: why, then that they failed, and what that ends."""
        errors: dict[int, ServiceError] = {}
        self._record_reasons(failed, errors)
        leaves: defaultdict[Node, Marks] = defaultdict(Marks)
        jobs: defaultdict[str, dict[str, int]] = defaultdict(dict)
        origins: defaultdict[str, set[int]] = defaultdict(set)
        for index, failure in enumerate(failed):
            ref = failure.ref
            if index in errors:
                continue
            if isinstance(ref, PartRef):
                marks = leaves[leaf_of(ref)]
                marks.failed.add(_entry(ref, failure.generation))
                marks.origins.add(index)
            else:
                name, phase = register_of(ref), 2 * failure.generation + 1
                jobs[ref.job_id][name] = max(phase, jobs[ref.job_id].get(name, 0))
                origins[ref.job_id].add(index)
        closings = self._fail_jobs(jobs, origins, errors)
        closings += self._after_climb(self._counter.record(leaves), errors)
        return Recorded(errors=[errors.get(index) for index in range(len(failed))], closings=closings)

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

        The message that is sent carries the next generation. False: the task is done after all or its job
        complete, so the dead letter is only to be removed. Saying it again goes on where a crash stopped it.
        """
        answers = self._table.each(self._redrive, refs)
        sent = {
            self._keys.failure(ref): None
            for (ref, _), sent in zip(refs, answers, strict=True)
            if sent is True
        }
        # Only shown to people: a reason that stays is no error.
        self._table.put_many(sent)
        return answers

    # ─── Splits ───

    def split(self, split: SplitRef) -> SealedSplit | None:
        """The sealed split: then its user code must not run again. None: not sealed yet."""
        return self._splits.sealed(split)

    def splits(self, splits: Iterable[SplitRef]) -> dict[SplitRef, SealedSplit]:
        """Those of the splits that are sealed, read together."""
        return self._splits.sealed_many(splits)

    def seal(self, split: SplitRef, header: str, data: str, parts: Iterable[str]) -> SealedSplit:
        """Fix the parts (JSON) of a split for ever, reading them as they come. Send them only afterwards.

        ``header`` and ``data`` (JSON) are kept, so that anybody can make the gather's message. When another
        run sealed the split first, its parts are returned, not these. Raises what ``parts`` raises, and
        ``ResultTooLargeError`` for a part over 380 KB.
        """
        return self._splits.seal(split, header, data, parts)

    def parts(self, sealed: SealedSplit) -> Iterator[tuple[int, str]]:
        """Every part (JSON) with its ordinal, fetched page by page."""
        return self._splits.parts(sealed)

    def page(self, sealed: SealedSplit, page: int) -> list[tuple[int, str]]:
        """The parts of one of ``sealed.pages`` pages, with their ordinals."""
        return self._splits.page(sealed, page)

    def results(self, split: SplitRef, total: int) -> Iterator[str]:
        """The results (JSON) of all parts in order; ``PermanentError`` when one is missing."""
        return self._splits.results(split, total)

    # ─── Attempts ───

    def add_attempt(self, task_id: str, message_id: str, receive_count: int) -> int:
        """Record one failed attempt of a message; how many there are now. Twice the same counts once."""
        return self._attempts.add(task_id, message_id, receive_count)

    def attempts(self, messages: Iterable[tuple[str, str]]) -> dict[tuple[str, str], int]:
        """How many attempts each message (task id, message id) had."""
        return self._attempts.count(messages)

    # ─── Inside ───

    def _expiry(self) -> int:
        return int(self._clock()) + self._expiry_days * DAY

    def _record_stages(self, done: Sequence[Done], errors: dict[int, ServiceError]) -> list[Closing]:
        stages = {index: each for index, each in enumerate(done) if isinstance(each, StageDone)}
        keys = {index: self._keys.stage(each.ref.job_id, each.ref.stage) for index, each in stages.items()}
        failed = self._table.put_many({keys[index]: self._stage_item(each) for index, each in stages.items()})
        errors |= {index: failed[key] for index, key in keys.items() if key in failed}
        jobs: defaultdict[str, set[str]] = defaultdict(set)
        origins: defaultdict[str, set[int]] = defaultdict(set)
        for index, each in stages.items():
            if each.ends_path and index not in errors:
                jobs[each.ref.job_id].add(each.ref.stage)
                origins[each.ref.job_id].add(index)
        answers = self._table.each(lambda entry: self._records.end_paths(*entry), list(jobs.items()))
        return _collect(zip((origins[job_id] for job_id in jobs), answers, strict=True), errors)

    def _stage_item(self, done: StageDone) -> Item:
        return {
            "task_id": done.task_id,
            "ends_path": done.ends_path,
            "run_seconds": round(done.run_seconds, 6),
            "finished_at": round(done.finished_at, 3),
            "worker": done.worker,
            "exp": self._expiry(),
        }

    def _record_reasons(self, failed: Sequence[Failed], errors: dict[int, ServiceError]) -> None:
        keys = [self._keys.failure(failure.ref) for failure in failed]
        items: dict[Key, Item | None] = {
            key: {
                "task_id": failure.task_id,
                "error": failure.error,
                "message": failure.message[:MESSAGE_CHARACTERS],
                "attempts": failure.attempts,
                "failed_at": failure.failed_at,
                "generation": failure.generation,
                "exp": self._expiry(),
            }
            for key, failure in zip(keys, failed, strict=True)
        }
        unwritten = self._table.put_many(items)
        errors |= {index: unwritten[key] for index, key in enumerate(keys) if key in unwritten}

    def _fail_jobs(
        self,
        jobs: Mapping[str, Mapping[str, int]],
        origins: Mapping[str, set[int]],
        errors: dict[int, ServiceError],
    ) -> list[Closing]:
        answers = self._table.each(lambda entry: self._records.fail(*entry), list(jobs.items()))
        return _collect(zip((origins[job_id] for job_id in jobs), answers, strict=True), errors)

    def _after_climb(self, climb: Climb, errors: dict[int, ServiceError]) -> list[Closing]:
        """What the splits that ended need: their gather, or their failure on their job's record."""
        errors |= climb.errors
        closings: list[Closing] = []
        jobs: defaultdict[str, dict[str, int]] = defaultdict(dict)
        origins: defaultdict[str, set[int]] = defaultdict(set)
        for ended in climb.ended:
            split = ended.node.split
            if not ended.state.full:
                jobs[split.job_id][register(split.stage, "parts")] = ended.state.phase
                origins[split.job_id] |= ended.origins
            elif not ended.state.closed:
                closings.append(SplitFilled(split=split, total=ended.node.total))
        return closings + self._fail_jobs(jobs, origins, errors)

    def _redrive(self, entry: tuple[Ref, int]) -> bool:
        ref, generation = entry
        key = self._done_key(ref)
        if _is_done(ref, self._table.get(key) or {}):
            return False
        if not isinstance(ref, PartRef):
            return self._records.redrive(ref.job_id, register_of(ref), 2 * generation + 2)
        job = self._records.get(ref.job_id)
        if job is not None and job.completed_at is not None:
            return False
        root = self._counter.redrive(leaf_of(ref), [_entry(ref, generation)])
        return self._records.redrive(ref.job_id, register(ref.stage, "parts"), 2 * root)

    def _done_key(self, ref: Ref) -> Key:
        match ref:
            case StageRef():
                return self._keys.stage(ref.job_id, ref.stage)
            case SplitRef():
                return self._keys.top(ref.split_id)
            case PartRef():
                return leaf_of(ref).key(self._keys)

    def _resume(
        self, done: set[Ref], keys: Mapping[Ref, Key], items: Mapping[Key, Item]
    ) -> Sequence[Closing]:
        """Climb on from what is recorded; raise the first error, for the check to be made again."""
        errors: dict[int, ServiceError] = {}
        closings: list[Closing] = []
        for ref in done:
            if isinstance(ref, StageRef):
                ends_path = items[keys[ref]]["ends_path"]
                closings += (
                    self._records.end_paths(ref.job_id, {ref.stage})
                    if ends_path
                    else self._records.recheck(ref.job_id)
                )
        leaves = {leaf_of(ref): frozenset({0}) for ref in done if isinstance(ref, PartRef)}
        closings += self._after_climb(self._counter.resume(leaves, items), errors)
        for error in errors.values():
            raise error
        return closings


def _is_done(ref: Ref, item: Item) -> bool:
    match ref:
        case StageRef():
            return bool(item)
        case SplitRef():
            return "closed_at" in item
        case PartRef():
            return ref.ordinal % FAN_OUT in item.get("d", ())


def _entry(ref: PartRef, generation: int) -> str:
    """A failed or redriven part in its leaf's sets."""
    return f"{ref.ordinal % FAN_OUT}.{generation}"


def _collect(
    answers: Iterable[tuple[Iterable[int], list[Closing] | ServiceError]], errors: dict[int, ServiceError]
) -> list[Closing]:
    """The closings of several answers; the errors go to the outcomes they are about."""
    closings: list[Closing] = []
    for origins, answer in answers:
        if isinstance(answer, ServiceError):
            errors |= dict.fromkeys(origins, answer)
        else:
            closings += answer
    return closings
