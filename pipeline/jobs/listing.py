"""What people ask about jobs: the list, the progress of one, why its tasks failed. Reads only."""

from collections import Counter as Counted
from collections.abc import Callable, Iterator, Mapping, Sequence

from pipeline.errors import ServiceError
from pipeline.jobs.counter import Counter, Node, NodeState, top_of
from pipeline.jobs.keys import FAN_OUT, SHARDS, Keys, day_of, moment
from pipeline.jobs.model import FailureRecord, Job, JobPage, JobState, SplitRef, StageProgress
from pipeline.jobs.records import Records
from pipeline.jobs.table import Table
from pipeline.jobs.wire import Item

DAY = 86_400

#: How far ahead the clock of who submitted a job may be.
SKEW = 3_600

#: A job lives at most so many days longer than its last write after its submission: what SQS keeps.
LIFE_DAYS = 15

#: Entries of one partition of the index that are looked at for an entity: about what DynamoDB reads at once.
LOOKED_AT = 5_000

#: The attributes of a job's small items that tell its progress: not the parts inside a seal.
_PROGRESS = ("sk", "n", "split", "run_seconds", "finished_at", "worker", "task_id")

#: Parts done and failed of each split.
Counts = Mapping[SplitRef, tuple[int, int]]


class Listing:
    """Reads across jobs and within one."""

    def __init__(
        self,
        table: Table,
        keys: Keys,
        records: Records,
        counter: Counter,
        clock: Callable[[], float],
        expiry_days: int,
    ) -> None:
        """``expiry_days`` after its last write, a job is no longer there to be listed."""
        self._table = table
        self._keys = keys
        self._records = records
        self._counter = counter
        self._clock = clock
        self._days = expiry_days + LIFE_DAYS

    # ─── The list ───

    def jobs(
        self,
        state: JobState | None,
        limit: int,
        before: str | None,
        *,
        entity_id: str | None = None,
        since: float | None = None,
        days: int | None = None,
    ) -> JobPage:
        """A page of jobs, newest submission first.

        Of an entity, or with ``days``, it looks at a bounded number of jobs, or days, and no more: then the
        page may be short, or empty, and still have a ``next``.
        """
        moments, rest = self._newest(state, limit + 1, before, entity_id, since or 0, days)
        page = moments[:limit]
        jobs = self._records.get_many(each.split("#", 1)[1] for each in page)
        if state is not None:
            # The index follows the table a little later.
            jobs = [job for job in jobs if job.state is state]
        jobs.sort(key=lambda job: (job.submitted_at, job.job_id), reverse=True)
        return JobPage(jobs=jobs, next=page[-1] if len(moments) > limit else rest)

    def open_since(self, before: float, limit: int, after: str) -> JobPage:
        """A page of jobs that run and were submitted before a moment, oldest submission first."""
        until = f"{before:014.3f}"
        partitions = [self._keys.open_shard(shard) for shard in range(SHARDS)]
        answers = self._table.each(
            lambda each: self._table.oldest(each, limit + 1, after + "\0", until), partitions
        )
        moments = sorted(item["isk"] for answer in answers for item in _answered(answer))
        page = moments[:limit]
        jobs = self._records.get_many(each.split("#", 1)[1] for each in page)
        running = [job for job in jobs if job.state is JobState.RUNNING]
        running.sort(key=lambda job: (job.submitted_at, job.job_id))
        return JobPage(jobs=running, next=page[-1] if len(moments) > limit else None)

    def _newest(
        self,
        state: JobState | None,
        limit: int,
        before: str | None,
        entity_id: str | None,
        since: float,
        days: int | None,
    ) -> tuple[list[str], str | None]:
        """The newest moments, and from where to look further when not all was looked at for them."""
        closed = [each for each in JobState if each is not JobState.RUNNING and state in (None, each)]
        found: set[str] = set()
        looked_to, end = moment(since), moment(max(since, self._oldest()))
        if state in (None, JobState.RUNNING):
            shards = [self._keys.open_shard(shard) for shard in range(SHARDS)]
            looked_to = max(looked_to, self._query(shards, limit, before, entity_id, found))
        for number, day in enumerate(self._days_back(before, since) if closed else ()):
            # What runs is found in one go; what is older than the days that were looked at comes later.
            today = moment(day + DAY)
            if looked_to >= today or number == days or sum(each >= today for each in found) >= limit:
                looked_to = max(looked_to, today)
                break
            shards = [
                self._keys.closed_shard(each, day_of(day), shard)
                for each in closed
                for shard in range(SHARDS)
            ]
            looked_to = max(looked_to, self._query(shards, limit, before, entity_id, found))
        moments = sorted((each for each in found if each >= looked_to), reverse=True)
        return moments[:limit], looked_to if looked_to > end else None

    def _query(
        self, partitions: list[str], limit: int, before: str | None, entity_id: str | None, found: set[str]
    ) -> str:
        """Add to ``found``; back to where all of the partitions were looked at."""
        most, where = (limit, None) if entity_id is None else (LOOKED_AT, {"entity": entity_id})
        looked_to = []
        for answer in self._table.each(
            lambda each: self._table.newest(each, most, before, where), partitions
        ):
            if isinstance(answer, ServiceError):
                raise answer
            found.update(answer.keys)
            looked_to.append(answer.looked_to or "")
        return max(looked_to)

    def _days_back(self, before: str | None, since: float) -> Iterator[float]:
        """The beginning of each day, back to that of ``since``."""
        latest = self._clock() + SKEW
        # A cursor at midnight is the end of the day before.
        day = _midnight(min(float(before.split("#", 1)[0]) - 0.001, latest) if before else latest)
        while day + DAY > max(since, self._oldest()):
            yield day
            day -= DAY

    def _oldest(self) -> float:
        """No job was submitted before."""
        return self._clock() - self._days * DAY

    # ─── One job ───

    def progress(self, job_id: str) -> tuple[Job, list[StageProgress]] | None:
        """A job and how far each of its stages is; None when there is no such job."""
        job = self._records.get(job_id)
        return None if job is None else (job, self.progress_of([job])[0])

    def progress_of(self, jobs: Sequence[Job]) -> list[list[StageProgress]]:
        """How far the stages of each job are."""
        # In this order of sk: P#stage (seals), S#stage (done).
        answers = self._table.each(
            lambda job: list(
                self._table.query(self._keys.job(job.job_id), since="P#", until="S$", attributes=_PROGRESS)
            ),
            jobs,
        )
        items = [{item["sk"]: item for item in _answered(answer)} for answer in answers]
        pairs = list(zip(jobs, items, strict=True))
        counts = self._counts([split for job, own in pairs for split in _splits_under_way(job, own)])
        return [[_stage(job, stage, own, counts) for stage in job.plan.stages] for job, own in pairs]

    def _counts(self, splits: Sequence[tuple[SplitRef, int]]) -> Counts:
        """Parts done and failed: reads only the nodes that are not full, from the top down."""
        done: Counted[SplitRef] = Counted()
        failed: Counted[SplitRef] = Counted()
        nodes: list[Node] = [top_of(split, total) for split, total in splits]
        while nodes:
            below: list[Node] = []
            for node, state in self._counter.states(nodes).items():
                if node.level == 0:
                    done[node.split] += len(state.done)
                    failed[node.split] += len(state.failed)
                else:
                    done[node.split] += sum(_parts(node.child(offset)) for offset in state.done)
                    below += [node.child(offset) for offset in _open(node, state)]
            nodes = below
        return {split: (done[split], failed[split]) for split, _ in splits}

    def failures(self, job_id: str) -> Iterator[FailureRecord]:
        """Why tasks of a job are dead letters, those that were not redriven; fetched page by page."""
        for item in self._table.query(self._keys.job(job_id), since="F#", until="F$"):
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


def _answered(answer: list[Item] | ServiceError) -> list[Item]:
    if isinstance(answer, ServiceError):
        raise answer
    return answer


def _splits_under_way(job: Job, items: Mapping[str, Item]) -> Iterator[tuple[SplitRef, int]]:
    """Splits of which some parts may not be done, with how many they have."""
    for stage in job.plan.stages:
        seal = items.get(f"P#{stage}")
        if seal is not None and seal["n"] and f"S#{stage}" not in items:
            yield SplitRef(job_id=job.job_id, stage=stage, split_id=seal["split"]), seal["n"]


def _stage(job: Job, stage: str, items: Mapping[str, Item], counts: Counts) -> StageProgress:
    done, seal = items.get(f"S#{stage}"), items.get(f"P#{stage}")
    has_failed = stage in job.failed and done is None
    is_cancelled = job.state is JobState.CANCELLED and done is None
    finished, failed, total = int(done is not None), int(has_failed), 1
    if seal is not None:
        total = seal["n"]
        split = SplitRef(job_id=job.job_id, stage=stage, split_id=seal["split"])
        finished, failed = counts.get(split, (total, 0))
    return StageProgress(
        stage=stage,
        state=_state(job, done is not None, has_failed, seal is not None),
        done=finished,
        failed=failed,
        total=total,
        cancelled=total - finished - failed if is_cancelled else 0,
        run_seconds=done["run_seconds"] if done else None,
        finished_at=done["finished_at"] if done else None,
        worker=done["worker"] if done else None,
        task_id=done["task_id"] if done else None,
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


def _open(node: Node, state: NodeState) -> Iterator[int]:
    return (offset for offset in range(node.children) if offset not in state.done)


def _parts(node: Node) -> int:
    """How many parts are below a node."""
    size: int = FAN_OUT ** (node.level + 1)
    return min(size, node.total - node.index * size)


def _midnight(moment: float) -> float:
    return moment - moment % DAY
