"""What people ask about jobs: the list, the progress of one, why its tasks failed. Reads only."""

from collections.abc import Callable, Iterator, Mapping
from typing import Literal

from pipeline.errors import ServiceError
from pipeline.jobs.counter import Counter, Node, NodeState, top_of
from pipeline.jobs.keys import FAN_OUT, SHARDS, Keys, day_of
from pipeline.jobs.model import FailureRecord, Job, JobPage, JobState, SplitRef, StageProgress
from pipeline.jobs.records import Records, read_job
from pipeline.jobs.table import Table
from pipeline.jobs.wire import Item

DAY = 86_400

#: A job lives at most so many days longer than its last write after its submission: what SQS keeps.
LIFE_DAYS = 15

#: The attributes of a job's small items that tell its progress: not the parts inside a seal.
_PROGRESS = ("sk", "n", "split", "run_seconds", "finished_at", "worker")


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

    def jobs(self, state: JobState | None, limit: int, before: str | None) -> JobPage:
        """A page of jobs, newest submission first."""
        moments = self._newest(state, limit + 1, before)
        page = moments[:limit]
        jobs = self._records.get_many(moment.split("#", 1)[1] for moment in page)
        if state is not None:
            # The index follows the table a little later.
            jobs = [job for job in jobs if job.state is state]
        jobs.sort(key=lambda job: (job.submitted_at, job.job_id), reverse=True)
        return JobPage(jobs=jobs, next=page[-1] if len(moments) > limit else None)

    def open_since(self, before: float, limit: int, after: str) -> JobPage:
        """A page of jobs that run and were submitted before a moment, oldest submission first."""
        until = f"{before:014.3f}"
        partitions = [self._keys.open_shard(shard) for shard in range(SHARDS)]
        answers = self._table.each(
            lambda each: self._table.oldest(each, limit + 1, after + "\0", until), partitions
        )
        moments = sorted(item["isk"] for answer in answers for item in _answered(answer))
        page = moments[:limit]
        jobs = self._records.get_many(moment.split("#", 1)[1] for moment in page)
        running = [job for job in jobs if job.state is JobState.RUNNING]
        running.sort(key=lambda job: (job.submitted_at, job.job_id))
        return JobPage(jobs=running, next=page[-1] if len(moments) > limit else None)

    def _newest(self, state: JobState | None, limit: int, before: str | None) -> list[str]:
        found: set[str] = set()
        if state in (None, JobState.RUNNING):
            found |= self._query([self._keys.open_shard(shard) for shard in range(SHARDS)], limit, before)
        closed = [
            each for each in (JobState.COMPLETE, JobState.FAILED, JobState.CANCELLED) if state in (None, each)
        ]
        start = float(before.split("#", 1)[0]) if before else self._clock() + DAY
        for day in self._days_back(start) if closed else ():
            if sum(moment >= f"{_midnight(day + DAY):014.3f}" for moment in found) >= limit:
                break
            shards = [
                self._keys.closed_shard(each, day_of(day), shard)
                for each in closed
                for shard in range(SHARDS)
            ]
            found |= self._query(shards, limit, before)
        return sorted(found, reverse=True)[:limit]

    def _days_back(self, start: float) -> Iterator[float]:
        oldest = self._clock() - self._days * DAY
        while start > oldest:
            yield start
            start -= DAY

    def _query(self, partitions: list[str], limit: int, before: str | None) -> set[str]:
        answers = self._table.each(lambda each: self._table.newest(each, limit, before), partitions)
        return {item["isk"] for answer in answers for item in _answered(answer)}

    # ─── One job ───

    def progress(self, job_id: str) -> tuple[Job, list[StageProgress]] | None:
        """A job and how far each of its stages is; None when there is no such job."""
        meta = self._table.get(self._keys.meta(job_id))
        if meta is None or "plan" not in meta:
            return None
        job = read_job(meta)
        # In this order of sk: META, P#stage (seals), S#stage (done).
        items = self._table.query(self._keys.job(job_id), since="P#", until="S$", attributes=_PROGRESS)
        by_key = {item["sk"]: item for item in items}
        return job, [self._stage(job, stage, by_key) for stage in job.plan.stages]

    def _stage(self, job: Job, stage: str, items: Mapping[str, Item]) -> StageProgress:
        done, seal = items.get(f"S#{stage}"), items.get(f"P#{stage}")
        failed = stage in job.failed and done is None
        cancelled = job.state is JobState.CANCELLED and done is None
        if seal is None:
            counts = (int(done is not None), int(failed), 1)
        else:
            split = SplitRef(job_id=job.job_id, stage=stage, split_id=seal["split"])
            counts = (*self._counts(split, seal["n"], complete=done is not None), seal["n"])
        return StageProgress(
            stage=stage,
            state=_state(done is not None, failed, cancelled, seal is not None),
            done=counts[0],
            failed=counts[1],
            total=counts[2],
            cancelled=counts[2] - counts[0] - counts[1] if cancelled else 0,
            run_seconds=done["run_seconds"] if done else None,
            finished_at=done["finished_at"] if done else None,
            worker=done["worker"] if done else None,
        )

    def _counts(self, split: SplitRef, total: int, complete: bool) -> tuple[int, int]:
        """Parts done and failed: reads only the nodes that are not full, from the top down."""
        if complete or total == 0:
            return total, 0
        done = failed = 0
        nodes: list[Node] = [top_of(split, total)]
        while nodes:
            below: list[Node] = []
            for node, state in self._counter.states(nodes).items():
                if node.level == 0:
                    done += len(state.done)
                    failed += len(state.failed)
                else:
                    done += sum(_parts(node.child(offset)) for offset in state.done)
                    below += [node.child(offset) for offset in _open(node, state)]
            nodes = below
        return done, failed

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


def _state(
    done: bool, failed: bool, cancelled: bool, sealed: bool
) -> Literal["waiting", "running", "done", "failed", "cancelled"]:
    if done:
        return "done"
    if failed:
        return "failed"
    if cancelled:
        return "cancelled"
    return "running" if sealed else "waiting"


def _open(node: Node, state: NodeState) -> Iterator[int]:
    return (offset for offset in range(node.children) if offset not in state.done)


def _parts(node: Node) -> int:
    """How many parts are below a node."""
    size: int = FAN_OUT ** (node.level + 1)
    return min(size, node.total - node.index * size)


def _midnight(moment: float) -> float:
    return moment - moment % DAY
