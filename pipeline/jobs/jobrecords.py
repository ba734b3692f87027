"""The record of a job (META): opened once, ended by the union of its terminal stages, closed once.

``done`` is the set of stages whose path ended; the plan says which terminal stages that makes done. Failures
are in registers beside it, one for each task of a stage (its run, split, gather, each page task) and one for
all its parts: phases that only grow, as in the counter, 2g for running and 2g + 1 for failed in generation g.
A generation is a task's own: in a register of two, the redrive of one would hide that the other failed.

``failed`` is written only if neither the redrives nor ``done`` changed since they were read, and
``complete`` only when ``done`` is full, so a job that is complete can never be announced as failed.
``cancelled`` is written only while the job runs and ``done``, unchanged since it was read, is not full: a job
ends in one way. A job whose end is final has ``closed_at``, whichever way it ended.

The record of a stage that ends a path is written with ``done``, into this item, in jobs of the present layout
(ADR 23). Those that an earlier version opened have it beside, as other stages do.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from pipeline.errors import ServiceError
from pipeline.jobs.errors import NoRecordError
from pipeline.jobs.expressions import Item, all_of, below, equals, has_size, missing, present
from pipeline.jobs.indexshards import IndexShards
from pipeline.jobs.keys import Key, Keys, part_name
from pipeline.jobs.model import Closing, Job, JobFailed, JobFilled, JobState, KeptResult, NewJob, Opened
from pipeline.jobs.refs import SplitRef, StageRef
from pipeline.jobs.table import Table, Updated
from pipeline.wire.plans import JobPlan

#: The layout of the records of a job, pinned when it is opened (ADR 23).
LAYOUT = 2

#: Begins the attribute with the record of a stage that ended a path.
END = "s:"

#: Bytes of a result, as JSON, that the record of a job keeps. Each write of the record costs a write unit for
#: each KB of it, and two follow the first result.
RESULT_BYTES = 1_024

#: Of the record of a stage that ended a path: its result, or the size of one that is not kept.
_RESULT, _RESULT_SIZE = "result", "result_bytes"


def register_of(ref: StageRef | SplitRef) -> str:
    """Return the attribute that holds the phase of a task that is no part."""
    return f"x:{part_name(ref)}:{ref.stage}"


def parts_register(stage: str) -> str:
    """Return the attribute that holds the phase of a stage's parts, copied from the root of their counter."""
    return f"x:parts:{stage}"


class JobRecords:
    """The records of all jobs."""

    def __init__(
        self,
        table: Table,
        keys: Keys,
        shards: IndexShards,
        expiry: Callable[[], int],
        clock: Callable[[], float],
        *,
        by_entity: bool,
    ) -> None:
        """``expiry`` gives the ``exp`` of an item written now, ``clock`` the seconds since the epoch.

        ``by_entity``: whether jobs are to be in the index by entity.
        """
        self._table = table
        self._keys = keys
        self._shards = shards
        self._by_entity = by_entity
        self._expiry = expiry
        self._clock = clock

    def open(self, jobs: Sequence[NewJob]) -> Opened:
        """Write jobs' records; a job that was opened before stays as it is."""
        keys = [self._keys.meta(job.job_id) for job in jobs]
        answer = self._table.insert_many(
            [(key, self._new_item(job)) for key, job in zip(keys, jobs, strict=True)]
        )
        existing = {job.job_id for key, job in zip(keys, jobs, strict=True) if key in answer.existing}
        return Opened(errors=answer.errors, existing=frozenset(existing))

    def get_now(self, job_ids: Iterable[str]) -> dict[str, Job]:
        """Return those of the jobs that exist, by id, as they are now."""
        items = self._table.get_many(self._keys.meta(job_id) for job_id in job_ids)
        jobs = (read_job(item) for item in items.values() if "plan" in item)
        return {job.job_id: job for job in jobs}

    def _new_item(self, job: NewJob) -> Item:
        return {
            "state": JobState.RUNNING.value,
            "entity": job.entity_id,
            "topic": job.topic,
            "plan": job.plan.pairs(),
            "routes": job.plan.routes_json,
            "submitted_at": job.submitted_at,
            "redrives": 0,
            "layout": LAYOUT,
            **({"event": list(job.event)} if job.event else {}),
            **({"digest": job.digest} if job.digest else {}),
            **self._index(JobState.RUNNING, job.job_id, job.submitted_at),
            **({"epk": self._keys.entity(job.entity_id)} if self._by_entity else {}),
            **self._stamp(),
        }

    def get(self, job_id: str) -> Job | None:
        """Return a job as it is now; None for an unknown one."""
        item = self._table.get(self._keys.meta(job_id))
        return read_job(item) if item and "plan" in item else None

    def get_many(self, job_ids: Iterable[str]) -> list[Job]:
        """Return those of the jobs that exist, as a list shows them: it may be a moment behind."""
        items = self._table.get_many((self._keys.meta(job_id) for job_id in job_ids), consistent=False)
        return [read_job(item) for item in items.values() if "plan" in item]

    def results(self, job_id: str) -> dict[str, KeptResult]:
        """Return, by stage, what the record keeps of the results that ended the job's paths, as it is now."""
        item = self._table.get(self._keys.meta(job_id)) or {}
        found = {
            name.removeprefix(END): record
            for name, record in item.items()
            if name.startswith(END) and (_RESULT in record or _RESULT_SIZE in record)
        }
        return {
            stage: KeptResult(
                result=record.get(_RESULT),
                size=record.get(_RESULT_SIZE) or len(record[_RESULT].encode()),
                task_id=record["task_id"],
            )
            for stage, record in found.items()
        }

    def mark_sent(self, job_ids: Iterable[str]) -> list[ServiceError]:
        """Record that Kafka acknowledged the first event of each job; return the errors.

        A job that lacks the mark gets the same event again when it is submitted again.
        """

        def mark(job_id: str) -> Updated:
            return self._table.update(self._keys.meta(job_id), put={"sent": True}, when=present("plan"))

        answers = self._table.each(mark, list(job_ids))
        return [answer for answer in answers if isinstance(answer, ServiceError)]

    def recheck(self, job_id: str) -> list[Closing]:
        """Return what a job's record says is to be closed now."""
        item = self._table.get(self._keys.meta(job_id))
        return self._settle(item) if item and "plan" in item else []

    def record_ends(self, job_id: str, ends: Mapping[str, Item]) -> list[Closing] | None:
        """Record stages that are done and that nothing follows, in one write; return what that ends.

        None: the job has another layout, and nothing is written. Record each stage beside the job, then call
        ``end_paths``.
        """
        updated = self._table.update(
            self._keys.meta(job_id),
            put={**{f"{END}{stage}": end for stage, end in ends.items()}, **self._stamp()},
            add={"done": set(ends)},
            when=equals("layout", LAYOUT),
        )
        return self._settle(updated.item) if updated.applied else None

    def end_paths(self, job_id: str, stages: set[str]) -> list[Closing]:
        """Record that nothing follows these stages, whose own records are beside; return what that ends."""
        return self._settle(self._write(job_id, add={"done": stages}))

    def fail(self, job_id: str, phases: Mapping[str, int]) -> list[Closing]:
        """Record failures in their registers; return what that ends."""
        item: Item = {}
        for name, phase in phases.items():
            item = self._write(job_id, put={name: phase}, register=name)
        return self._settle(item)

    def redrive(self, job_id: str, name: str, phase: int) -> bool:
        """Set a failed task to running. False: the job's end is final, nothing is to be redriven."""
        job = self.get(job_id)
        if job is None:
            raise NoRecordError(job_id)
        if job.is_final:
            return False
        updated = self._table.update(
            self._keys.meta(job_id),
            put={
                name: phase,
                "state": JobState.RUNNING.value,
                **self._index(JobState.RUNNING, job_id, job.submitted_at),
                **self._stamp(),
            },
            add={"redrives": 1},
            remove=("failed_at",),
            when=all_of(present("plan"), below(name, phase), missing("closed_at")),
        )
        return updated.applied or "closed_at" not in updated.item

    def closed(self, job: Job) -> tuple[Key, Item]:
        """Return the key of a job's record, and what it has once the job is complete."""
        return self._keys.meta(job.job_id), {
            "state": JobState.COMPLETE.value,
            "closed_at": self._clock(),
            **self._index(JobState.COMPLETE, job.job_id, job.submitted_at),
            **self._stamp(),
        }

    def cancel(self, job_id: str) -> Job | None:
        """Record a running job as cancelled; return the job as it is then, None for an unknown one.

        A job whose last stage is done stays as it is: a worker is about to announce that it is complete.
        """
        item = self._table.get(self._keys.meta(job_id)) or {}
        while "plan" in item:
            job = read_job(item)
            if job.state is not JobState.RUNNING or job.plan.terminals <= job.done:
                return job
            updated = self._mark_cancelled(job, len(item.get("done", ())))
            if updated.applied:
                return read_job(updated.item)
            item = updated.item
        return None

    def _write(
        self,
        job_id: str,
        put: Mapping[str, Any] | None = None,
        add: Mapping[str, Any] | None = None,
        register: str | None = None,
    ) -> Item:
        """Update the record, a register only if it grows; return the item as it is afterwards."""
        grows = (below(register, (put or {})[register]),) if register else ()
        updated = self._table.update(
            self._keys.meta(job_id),
            put={**(put or {}), **self._stamp()},
            add=add,
            when=all_of(present("plan"), *grows),
        )
        if "plan" not in updated.item:
            raise NoRecordError(job_id)
        return updated.item

    def _settle(self, item: Item) -> list[Closing]:
        """Return what a job's record says is to be closed; record the job as failed if it ended so."""
        while True:
            job = read_job(item)
            if job.is_final:
                return []
            if job.plan.terminals <= job.done:
                return [JobFilled(job=job)]
            # A stage may be done although a copy of its task failed, and its record's writer may have died
            # before it wrote to the job's record: done always wins.
            done = self._done_stages(job)
            if late := {stage for stage in done if done[stage] and not job.plan.below([stage]) <= job.done}:
                item = self._write(job.job_id, add={"done": late})
                continue
            if not job.plan.terminals <= job.done | job.plan.below(job.failed - done.keys()):
                return []
            if job.state is JobState.FAILED:
                return [JobFailed(job=job)]
            updated = self._mark_failed(job, len(item.get("done", ())))
            if updated.applied:
                return [JobFailed(job=read_job(updated.item))]
            item = updated.item

    def _done_stages(self, job: Job) -> dict[str, bool]:
        """Return those of the failed stages that are done after all, and whether their path ends there."""
        keys = {self._keys.stage(job.job_id, stage): stage for stage in job.failed}
        return {keys[key]: item["ends_path"] for key, item in self._table.get_many(keys).items()}

    def _mark_failed(self, job: Job, done: int) -> Updated:
        return self._table.update(
            self._keys.meta(job.job_id),
            put={
                "state": JobState.FAILED.value,
                "failed_at": self._clock(),
                **self._index(JobState.FAILED, job.job_id, job.submitted_at),
                **self._stamp(),
            },
            # Sets only grow: the same size is the same set.
            when=all_of(
                present("plan"),
                missing("closed_at"),
                equals("redrives", job.redrives),
                has_size("done", done),
            ),
        )

    def _mark_cancelled(self, job: Job, done: int) -> Updated:
        return self._table.update(
            self._keys.meta(job.job_id),
            put={
                "state": JobState.CANCELLED.value,
                "closed_at": self._clock(),
                **self._index(JobState.CANCELLED, job.job_id, job.submitted_at),
                **self._stamp(),
            },
            when=all_of(present("plan"), equals("state", JobState.RUNNING.value), has_size("done", done)),
        )

    def _index(self, state: JobState, job_id: str, submitted_at: float) -> Item:
        partition, moment = self._keys.index(state, job_id, submitted_at, self._shards.to_write())
        return {"ipk": partition, "isk": moment}

    def _stamp(self) -> Item:
        return {"updated_at": round(self._clock(), 3), "exp": self._expiry()}


def read_job(item: Item) -> Job:
    """Return the job in a META item."""
    plan = JobPlan.read(item["plan"], item.get("routes", "[]"))
    state, closed_at = JobState(item["state"]), item.get("closed_at")
    return Job(
        job_id=item["pk"].split("/J#", 1)[1],
        state=state,
        entity_id=item["entity"],
        topic=item["topic"],
        plan=plan,
        submitted_at=item["submitted_at"],
        updated_at=item["updated_at"],
        completed_at=closed_at if state is JobState.COMPLETE else None,
        # A job that failed, and was completed by a copy of the failed task, keeps the attribute.
        failed_at=None if state is JobState.COMPLETE else item.get("failed_at"),
        cancelled_at=closed_at if state is JobState.CANCELLED else None,
        done=plan.below(item.get("done", frozenset())),
        failed=frozenset(_failed_stages(item)),
        redrives=item["redrives"],
        ends=ends_of(item),
        event=(event[0], event[1]) if (event := item.get("event")) else None,
        digest=item.get("digest"),
        is_sent=item.get("sent", False),
    )


def ends_of(item: Item) -> dict[str, Item]:
    """Return the records in a META item of stages that ended a path, by stage, without the results."""
    return {
        name.removeprefix(END): {key: value for key, value in record.items() if key != _RESULT}
        for name, record in item.items()
        if name.startswith(END)
    }


def kept_result(result: str | None) -> Item:
    """Return what a job's record keeps of the result (JSON) of a stage that ended a path."""
    if result is None:
        return {}
    size = len(result.encode())
    return {_RESULT: result} if size <= RESULT_BYTES else {_RESULT_SIZE: size}


def _failed_stages(item: Item) -> Sequence[str]:
    return [name.split(":", 2)[2] for name, phase in item.items() if name.startswith("x:") and phase % 2]
