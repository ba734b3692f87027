"""Listing: the list of jobs, the progress of one, and why its tasks failed. Reads only, for people."""

import time
from collections import Counter as Counted
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from pipeline.errors import MessageRefusedError, ServiceError
from pipeline.jobs.counter import Counter, Node, NodeState, top_of
from pipeline.jobs.expressions import Item
from pipeline.jobs.indexshards import IndexShards
from pipeline.jobs.jobrecords import JobRecords
from pipeline.jobs.keys import FAN_OUT, Keys, day_of, moment
from pipeline.jobs.model import FailureRecord, Job, JobPage, JobState, StageProgress
from pipeline.jobs.refs import SplitRef
from pipeline.jobs.table import ENTITY_INDEX, Table
from pipeline.jobs.taskrecords import REDRIVEN

Answer = TypeVar("Answer")

DAY = 86_400

#: Seconds that the clock of a submitting process may be ahead.
SKEW = 3_600

#: Days that the last write of a job may come after its submission: the retention of SQS.
LIFE_DAYS = 15

#: Entries of one partition of the index that are read for an entity: about what DynamoDB reads at once.
LOOKED_AT = 5_000

#: Days of submissions that one step of a search reads.
SEARCH_DAYS = 7

#: The attributes of a job's small items that tell its progress: not the parts inside a seal.
PROGRESS = ("sk", "n", "split", "run_seconds", "finished_at", "worker", "task_id")

#: Leaves of counters that are read to show jobs: those of 256,000 parts. 10 million parts have 39,063.
LEAVES_SHOWN = 1_000


@dataclass(frozen=True, kw_only=True)
class PartCount:
    """How many parts of a split are done and failed."""

    done: int
    failed: int
    #: Whether all its leaves were read that are not full.
    exact: bool = True


class JobListing:
    """Reads across jobs and within one."""

    def __init__(
        self,
        table: Table,
        keys: Keys,
        shards: IndexShards,
        records: JobRecords,
        counter: Counter,
        clock: Callable[[], float],
        expiry_days: int,
        *,
        by_entity_since: float | None,
    ) -> None:
        """``expiry_days``: how long after its last write a job is listed.

        ``by_entity_since``: the submission (seconds since 1970) from which on every job is in the index by
        entity; None: none is.
        """
        self._by_entity_since = by_entity_since
        self._table = table
        self._keys = keys
        self._shards = shards
        self._records = records
        self._counter = counter
        self._clock = clock
        self._days = expiry_days + LIFE_DAYS

    # ─── The list ───

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
        """Return a page of jobs, newest submission first. ``before`` is the ``next`` of the page before.

        None submitted before ``since`` (seconds since 1970). With ``entity_id`` or ``days`` it reads only so
        many jobs, or days of submissions: then a short or empty page may still have a ``next``.
        """
        found = self._of_entity(entity_id, limit + 1, before, since or 0) if entity_id else None
        moments, rest = found or self._newest(state, limit + 1, before, entity_id, since or 0, days)
        page = moments[:limit]
        jobs = self._records.get_many(each.split("#", 1)[1] for each in page)
        if state is not None:
            # The index follows the table a little later, and that by entity has all states.
            jobs = [job for job in jobs if job.state is state]
        jobs.sort(key=lambda job: (job.submitted_at, job.job_id), reverse=True)
        return JobPage(jobs=jobs, next=page[-1] if len(moments) > limit else rest)

    def starting_with(self, prefix: str, seconds: float) -> list[str]:
        """Return the ids that start with ``prefix``, newest first, of the jobs read within ``seconds``."""
        deadline = time.monotonic() + seconds
        found: dict[str, None] = {}
        cursor: str | None = None
        while True:
            moments, rest = self._newest(None, LOOKED_AT + 1, cursor, None, 0, SEARCH_DAYS)
            ids = (each.split("#", 1)[1] for each in moments[:LOOKED_AT])
            found |= dict.fromkeys(each for each in ids if each.startswith(prefix))
            cursor = moments[LOOKED_AT - 1] if len(moments) > LOOKED_AT else rest
            if cursor is None or time.monotonic() > deadline:
                return list(found)

    def open_before(self, moment: float, *, limit: int = 50, after: str | None = None) -> JobPage:
        """Return a page of jobs that run and were submitted before a moment, oldest first.

        ``after`` is the ``next`` of the page before. One with a ``next`` may have fewer than ``limit`` jobs.
        """
        since, until = (after or "") + "\0", f"{moment:014.3f}"
        shards = self._open_shards()
        # Twice its share of each, and a few: of many shards most entries would else be read in vain.
        most = min(limit, 2 * limit // len(shards) + 3) + 1
        answers = self._table.each(lambda each: self._table.oldest(each, most, since, until), shards)
        found = [[item["isk"] for item in _answered(answer)] for answer in answers]
        # Behind the last entry that was read of a shard there may be more of it.
        known_to = min((keys[-1] for keys in found if len(keys) == most), default=until)
        moments = sorted(key for keys in found for key in keys if key <= known_to)
        page = moments[:limit]
        jobs = self._records.get_many(each.split("#", 1)[1] for each in page)
        running = [job for job in jobs if job.state is JobState.RUNNING]
        running.sort(key=lambda job: (job.submitted_at, job.job_id))
        is_cut = known_to < until or len(moments) > limit
        return JobPage(jobs=running, next=page[-1] if is_cut else None)

    def submissions(self, most: int) -> list[float]:
        """Return when the newest jobs were submitted (seconds since 1970), newest first, at most ``most``.

        Of those that ended only the ones submitted today or yesterday.
        """
        moments, _ = self._newest(None, most, None, None, 0, 2)
        return [float(each.split("#", 1)[0]) for each in moments]

    def has_open_beyond(self, shards: int) -> bool:
        """Whether a running job is in another shard of the index than the first ``shards``."""
        answers = self._table.each(lambda each: self._table.newest(each, 1), self._open_shards()[shards:])
        return any(_answered(answer).keys for answer in answers)

    def _of_entity(
        self, entity_id: str, limit: int, before: str | None, since: float
    ) -> tuple[list[str], str | None] | None:
        """Return what ``_newest`` does, through the index by entity; None where that has no such jobs.

        It has none submitted before all processes wrote to it, and none at all until it is made and filled.
        """
        if self._by_entity_since is None or (before and before <= moment(self._by_entity_since)):
            return None
        try:
            newest = self._table.newest(self._keys.entity(entity_id), limit, before, index=ENTITY_INDEX)
        except MessageRefusedError:
            return None
        looked_to = max(newest.looked_to or "", moment(max(since, self._by_entity_since)))
        end = moment(max(since, self._oldest()))
        return [each for each in newest.keys if each >= looked_to], looked_to if looked_to > end else None

    def _newest(
        self,
        state: JobState | None,
        limit: int,
        before: str | None,
        entity_id: str | None,
        since: float,
        days: int | None,
    ) -> tuple[list[str], str | None]:
        """Return the newest moments, and the cursor to continue from when not everything was read."""
        closed = [each for each in JobState if each is not JobState.RUNNING and state in (None, each)]
        found: set[str] = set()
        looked_to, end = moment(since), moment(max(since, self._oldest()))
        if state in (None, JobState.RUNNING):
            looked_to = max(looked_to, self._query(self._open_shards(), limit, before, entity_id, found))
        # Read after the open jobs: one that ends meanwhile may have moved to a shard that was new then.
        shards = range(self._shards.to_read() if closed else 0)
        for number, day in enumerate(self._days_back(before, since) if closed else ()):
            # Running jobs are found at once; those older than the days that were read come later.
            today = moment(day + DAY)
            if looked_to >= today or number == days or sum(each >= today for each in found) >= limit:
                looked_to = max(looked_to, today)
                break
            partitions = [
                self._keys.closed_shard(each, day_of(day), shard) for each in closed for shard in shards
            ]
            looked_to = max(looked_to, self._query(partitions, limit, before, entity_id, found))
        moments = sorted((each for each in found if each >= looked_to), reverse=True)
        return moments[:limit], looked_to if looked_to > end else None

    def _open_shards(self) -> list[str]:
        return [self._keys.open_shard(shard) for shard in range(self._shards.to_read())]

    def _query(
        self, partitions: list[str], limit: int, before: str | None, entity_id: str | None, found: set[str]
    ) -> str:
        """Add to ``found``; return the moment back to which all partitions were read."""
        most, where = (limit, None) if entity_id is None else (LOOKED_AT, {"entity": entity_id})
        looked_to = []
        for answer in self._table.each(
            lambda each: self._table.newest(each, most, before, where), partitions
        ):
            newest = _answered(answer)
            found.update(newest.keys)
            looked_to.append(newest.looked_to or "")
        return max(looked_to)

    def _days_back(self, before: str | None, since: float) -> Iterator[float]:
        """Yield the beginning of each day, back to that of ``since``."""
        latest = self._clock() + SKEW
        # A cursor at midnight is the end of the day before.
        day = _midnight(min(float(before.split("#", 1)[0]) - 0.001, latest) if before else latest)
        while day + DAY > max(since, self._oldest()):
            yield day
            day -= DAY

    def _oldest(self) -> float:
        """Return the earliest submission of a job that may still be recorded."""
        return self._clock() - self._days * DAY

    # ─── One job ───

    def progress(self, job_id: str, *, exact: bool = False) -> tuple[Job, list[StageProgress]] | None:
        """Return a job and how far each of its stages is; None when there is no such job.

        ``exact``: count all parts, also where that takes thousands of reads.
        """
        job = self._records.get(job_id)
        return None if job is None else (job, self.progress_of([job], exact=exact)[0])

    def progress_of(self, jobs: Sequence[Job], *, exact: bool = False) -> list[list[StageProgress]]:
        """Return how far the stages of each job are, in few requests; ``exact`` as in ``progress``."""
        # In this order of sk: P#stage (seals), S#stage (done).
        answers = self._table.each(
            lambda job: list(
                self._table.query(self._keys.job(job.job_id), since="P#", until="S$", attributes=PROGRESS)
            ),
            jobs,
        )
        items = [{item["sk"]: item for item in _answered(answer)} for answer in answers]
        return self.progress_from(list(zip(jobs, items, strict=True)), exact=exact)

    def progress_from(
        self, pairs: Sequence[tuple[Job, Mapping[str, Item]]], *, exact: bool
    ) -> list[list[StageProgress]]:
        """Return the same from jobs' small items by sk, which were read with at least ``PROGRESS``."""
        splits = [split for job, own in pairs for split in _splits_under_way(job, own)]
        counts = self._counts(splits, exact=exact)
        return [[_stage(job, stage, own, counts) for stage in job.plan.stages] for job, own in pairs]

    def _counts(self, splits: Sequence[tuple[SplitRef, int]], *, exact: bool) -> Mapping[SplitRef, PartCount]:
        """Count parts done and failed; read only the nodes that are not full, from the top down.

        Unless ``exact``, only ``LEAVES_SHOWN`` leaves are read, first those that ended with failures. Another
        one of these counts as if one part of it had failed, any other leaf as if none had ended.
        """
        done: Counted[SplitRef] = Counted()
        failed: Counted[SplitRef] = Counted()
        tops = [top_of(split, total) for split, total in splits]
        ended: dict[SplitRef, list[Node]] = {split: [] for split, _ in splits}
        going = {top.split: [top] if top.level == 0 else [] for top in tops}
        nodes = [top for top in tops if top.level > 0]
        while nodes:
            below: list[Node] = []
            for node, state in self._counter.states(nodes).items():
                done[node.split] += sum(_parts(node.child(offset)) for offset in state.done)
                for offset in _open(node, state):
                    leaves = ended if offset in state.failed else going
                    (below if node.level > 1 else leaves[node.split]).append(node.child(offset))
            nodes = below
        wanted = {split: ended[split] + going[split] for split in going}
        read = wanted if exact else _first_of(wanted)
        for leaf, state in self._counter.states([leaf for each in read.values() for leaf in each]).items():
            done[leaf.split] += len(state.done)
            failed[leaf.split] += len(state.failed)
        for split in wanted:
            for leaf in ended[split][len(read[split]) :]:
                done[split] += _parts(leaf) - 1
                failed[split] += 1
        return {
            split: PartCount(
                done=done[split], failed=failed[split], exact=len(read[split]) == len(wanted[split])
            )
            for split in wanted
        }

    def failures(self, job_id: str) -> Iterator[FailureRecord]:
        """Yield why tasks of a job are dead letters, those that were not redriven; fetched page by page."""
        for item in self._table.query(self._keys.job(job_id), since="F#", until="F$"):
            if REDRIVEN in item:
                continue
            stage, part = item["sk"].removeprefix("F#").rsplit("#", 1)
            yield FailureRecord(
                stage=stage,
                part=int(part) if part.isdigit() else part,
                task_id=item["task_id"],
                error=item["error"],
                message=item["message"],
                attempts=item["attempts"],
                failed_at=item["failed_at"],
                generation=item["generation"],
            )


def _answered(answer: Answer | ServiceError) -> Answer:
    if isinstance(answer, ServiceError):
        raise answer
    return answer


def _splits_under_way(job: Job, items: Mapping[str, Item]) -> Iterator[tuple[SplitRef, int]]:
    """Yield the splits of which some parts may not be done, with their number of parts."""
    for stage in job.plan.stages:
        seal = items.get(f"P#{stage}")
        if seal is not None and seal["n"] and f"S#{stage}" not in items and stage not in job.ends:
            yield SplitRef(job_id=job.job_id, stage=stage, split_id=seal["split"]), seal["n"]


def _stage(
    job: Job, stage: str, items: Mapping[str, Item], counts: Mapping[SplitRef, PartCount]
) -> StageProgress:
    done, seal = items.get(f"S#{stage}") or job.ends.get(stage), items.get(f"P#{stage}")
    has_failed = stage in job.failed and done is None
    is_cancelled = job.state is JobState.CANCELLED and done is None
    finished, failed, total, exact = int(done is not None), int(has_failed), 1, True
    if seal is not None:
        total = seal["n"]
        split = SplitRef(job_id=job.job_id, stage=stage, split_id=seal["split"])
        count = counts.get(split, PartCount(done=total, failed=0))
        finished, failed, exact = count.done, count.failed, count.exact
    return StageProgress(
        stage=stage,
        state=_state(job, done is not None, has_failed, seal is not None),
        done=finished,
        failed=failed,
        total=total,
        cancelled=total - finished - failed if is_cancelled else 0,
        exact=exact,
        run_seconds=done["run_seconds"] if done else None,
        finished_at=done["finished_at"] if done else None,
        worker=done["worker"] if done else None,
        task_id=done["task_id"] if done else None,
        entity=done.get("entity") if done else None,
    )


def _state(job: Job, done: bool, failed: bool, sealed: bool) -> str:
    if done:
        return "done"
    if failed:
        return "failed"
    if job.state is JobState.CANCELLED:
        return "cancelled"
    if sealed:
        return "running"
    return "waiting" if job.state is JobState.RUNNING else "not reached"


def _first_of(leaves: Mapping[SplitRef, list[Node]]) -> dict[SplitRef, list[Node]]:
    """Return the first leaves of each split, in all ``LEAVES_SHOWN``; small splits leave theirs to others."""
    left, found = LEAVES_SHOWN, {}
    for number, (split, wanted) in enumerate(sorted(leaves.items(), key=lambda each: len(each[1]))):
        found[split] = wanted[: left // (len(leaves) - number)]
        left -= len(found[split])
    return found


def _open(node: Node, state: NodeState) -> Iterator[int]:
    return (offset for offset in range(node.children) if offset not in state.done)


def _parts(node: Node) -> int:
    """Return how many parts are below a node."""
    size: int = FAN_OUT ** (node.level + 1)
    return min(size, node.total - node.index * size)


def _midnight(moment: float) -> float:
    return moment - moment % DAY
