"""The job store: the records of one service's jobs, tasks, splits and attempts in its table.

It only records; the ledger (``pipeline.ledger``) emits, sends and closes in the right order. Every write can
be repeated: a lost reply, or a crash in between, is repaired by doing all of it again.
"""

import time
from collections.abc import Callable, Sequence

from pipeline.errors import ServiceError
from pipeline.jobs.attempts import Attempts
from pipeline.jobs.chordrecords import ChordRecords
from pipeline.jobs.counter import Counter
from pipeline.jobs.deployments import Deployments
from pipeline.jobs.expressions import Item
from pipeline.jobs.indexshards import IndexShards
from pipeline.jobs.jobrecords import JobRecords
from pipeline.jobs.keys import Key, Keys, beginning_of
from pipeline.jobs.listing import JobListing
from pipeline.jobs.looks import Looks
from pipeline.jobs.markers import Markers
from pipeline.jobs.model import Filled, Job, JobFilled, JobState, SplitFilled
from pipeline.jobs.partlist import PartList
from pipeline.jobs.passes import Passes
from pipeline.jobs.resumption import Resumption
from pipeline.jobs.schedulerecords import ScheduleRecords
from pipeline.jobs.schema import Schema
from pipeline.jobs.splits import Splits
from pipeline.jobs.table import Table
from pipeline.jobs.taskrecords import TaskRecords
from pipeline.jobs.taskresults import TaskResults
from pipeline.payloads import Payloads
from pipeline.settings import Settings

DAY = 86_400


class JobStore:
    """The jobs of one service. Threads may share it; it may be carried through a fork."""

    def __init__(
        self, settings: Settings, *, table: Table | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        """``table`` and ``clock`` are given by tests only."""
        self._table = table = table or Table(settings.dynamodb_table)
        self._keys = keys = Keys(service=settings.service_name)
        self._clock = clock
        self._expiry_days = days = settings.job_expiry_days
        by_entity = settings.dynamodb_entity_index_since
        self._counter = counter = Counter(table, keys, self._expiry)
        #: the table's definition
        self.schema = Schema(
            table.name,
            settings.kms_key_arn,
            settings.dynamodb_warm_writes,
            by_entity=by_entity is not None,
        )
        #: over how many partitions of the index jobs are spread
        self.shards = IndexShards(table, keys, settings.dynamodb_index_shards)
        #: one record a job: its state, plan and end
        self.records = JobRecords(
            table, keys, self.shards, self._expiry, clock, by_entity=by_entity is not None
        )
        payloads = Payloads(settings)
        #: the parts of splits, and their results
        self.splits = Splits(table, keys, counter, self._expiry, payloads, max_parts=settings.max_parts)
        #: tasks that are done, or failed for good
        self.tasks = TaskRecords(table, keys, self.records, counter, self.splits, self._expiry)
        #: results of plain tasks
        self.results = TaskResults(table, keys, payloads, clock)
        #: failed runs
        self.attempts = Attempts(table, keys, self._expiry)
        #: chords of plain tasks: the ends of their header tasks
        self.chords = ChordRecords(table, keys, self._expiry, Payloads(settings))
        #: what is left to do after a crash, a replay or a redrive
        self.resumption = Resumption(table, keys, self.records, counter, self.tasks)
        #: lists and progress, for people
        self.listing = JobListing(
            table,
            keys,
            self.shards,
            self.records,
            counter,
            clock,
            days,
            by_entity_since=None if by_entity is None else beginning_of(by_entity),
        )
        #: open jobs as the sweep looks at them
        self.looks = Looks(table, keys, self.listing)
        #: the parts of one split, for people
        self.parts = PartList(table, keys, counter)
        #: the markers of the sweep that workers received
        self.markers = Markers(table, keys, self._expiry)
        #: whose turn the sweep is, and how far it is
        self.passes = Passes(table, keys, self._expiry, clock)
        #: whose turn it is with schedules, and how far each is
        self.schedules = ScheduleRecords(table, keys, self._expiry, clock)
        #: the versions of the service's stages that have a live bridge
        self.deployments = Deployments(table, keys, self._expiry, clock)

    def close(self, filled: Sequence[Filled]) -> list[ServiceError | None]:
        """Mark splits and jobs as closed, once their gathers and announcements are acknowledged.

        Those that are closed already stay as they are. Return for each its error, or None.
        """
        closed: dict[Key, Item] = {}
        keys, new = [], []
        for each in filled:
            key, item = self._closed(each)
            keys.append(key)
            if isinstance(each, SplitFilled) and each.total == 0:
                new.append((key, item))  # no part made its counter
            else:
                closed[key] = item
        errors = self._table.set_many(closed, unless="closed_at")
        for (key, _), error in zip(new, self._table.insert_many(new).errors, strict=True):
            if error:
                errors[key] = error
        return [errors.get(key) for key in keys]

    def _closed(self, filled: Filled) -> tuple[Key, Item]:
        if isinstance(filled, JobFilled):
            return self.records.closed(filled.job)
        return self._counter.closed(filled.split, filled.total, self._clock())

    def cancel(self, job_id: str) -> Job | None:
        """Cancel a job that runs; return the job as it is then, None when there is none.

        Its state tells whether it is cancelled, which is final. A job that ended before stays as it was, as
        does one whose last stage is done. Workers skip its tasks that have not started (``cancelled_since``).
        Repeat it when a reply was lost.
        """
        job = self.records.cancel(job_id)
        if job is not None and job.state is JobState.CANCELLED:
            # After the job's own record: a task is skipped only when nothing waits for it any more.
            self._table.update(self._keys.cancellation(job_id, self._clock()), put={"exp": self._expiry()})
        return job

    def cancelled_since(self, moment: float) -> set[str]:
        """Return the ids of jobs cancelled at or after a moment, by their processes' clocks.

        Eventually consistent, at half the price: one may be missing for about a second after its cancel.
        """
        since = self._keys.cancellation("", moment)[1]
        found = self._table.query(
            self._keys.cancellations(), since=since, until=":", attributes=("sk",), consistent=False
        )
        return {item["sk"].split("#", 1)[1] for item in found}

    def _expiry(self) -> int:
        return int(self._clock()) + self._expiry_days * DAY
