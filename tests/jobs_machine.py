"""The state machine of the property tests: Hypothesis chooses every schedule of one job."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pipeline.jobs import JobState, JobStore, NewJob, PartRef, StageRef
from pipeline.jobs.keys import Keys
from pipeline.settings import Settings
from tests.jobs_world import (
    FAULTS,
    JOB,
    KINDS,
    Message,
    Moment,
    SequentialTable,
    StageModel,
    Wire,
    Worker,
    World,
    as_before,
    split_ref,
    stage_ref,
)

moments = st.builds(Moment, st.sampled_from(KINDS), st.integers(0, 4), st.sampled_from(FAULTS))

GRAPHS: tuple[dict[str, tuple[str, ...]], ...] = (
    {"a": ()},
    {"a": ("b",), "b": ()},
    {"a": ("b", "c"), "b": (), "c": ()},
    {"a": ("b", "c"), "b": ("d",), "c": (), "d": ()},
)

#: Up to three parts are few enough for a counter that keeps their results.
stage_sizes = st.sampled_from([None, None, 0, 1, 2, 2, 3, 3, 4, 5, 8, 11])


class JobsMachine(RuleBasedStateMachine):
    """Any schedule of deliveries, copies, faults and redrives of one job."""

    #: Gives a client, and the name of its table, which is empty for the service.
    make_client: Callable[[], tuple[Any, str]]
    #: Gives the name of the service.
    make_service: Callable[[], str] = staticmethod(lambda: "test")

    @initialize(
        graph=st.sampled_from(GRAPHS),
        sizes=st.lists(stage_sizes, min_size=4, max_size=4),
        nones=st.lists(st.booleans(), min_size=4, max_size=4),
        doomed=st.frozensets(st.sampled_from(["a", "b", "b.split", "c", "d", 0, 1, 2, 4, 7]), max_size=5),
        doom=st.integers(0, 2),
        cancellable=st.booleans(),
        opened_before=st.booleans(),
        mixed=st.booleans(),
    )
    def open(
        self,
        graph: dict[str, tuple[str, ...]],
        sizes: list[int | None],
        nones: list[bool],
        doomed: frozenset[str | int],
        doom: int,
        cancellable: bool,
        opened_before: bool,
        mixed: bool,
    ) -> None:
        """Submit the job, to this version or to the one before; ``mixed``: workers of both run it.

        Both at once run a job of this version only where the order of a deployment is not kept.
        """
        self.mixed = mixed
        stages = {
            name: StageModel(followers=followers, parts=size, returns_none=none and bool(followers))
            for (name, followers), size, none in zip(graph.items(), sizes, nones, strict=False)
        }
        client, table_name = self.make_client()
        self.client = client
        table = SequentialTable(table_name, lambda: Wire(client, self.watch))  # type: ignore[arg-type,return-value]
        self.time = 4_000_000_000.0  # not in the past: DynamoDB Local deletes what expired
        settings = Settings(
            service_name=self.make_service(),
            kafka_bootstrap_servers="none",
            kafka_consumer_group="test",
            sqs_task_queue_url="http://none/tasks.fifo",
            sqs_dlq_url="http://none/dlq.fifo",
        )
        store = JobStore(settings, table=table, clock=self.clock)
        self.inside = JobStore(settings, table=SequentialTable(table_name, lambda: client), clock=self.clock)
        self.world = World(
            stages=stages,
            own_store=store,
            earlier_store=as_before(JobStore(settings, table=table, clock=self.clock)),
            inside=self.inside,
            doomed=doomed,
            doom=doom,
            cancellable=cancellable,
        )
        self.workers: list[Worker] = []
        self.started = 0
        self.seen: list[JobState] = []
        job = NewJob(job_id=JOB, entity_id="e", topic="t", plan=self.world.plan, submitted_at=self.time)
        assert store.records.open([job]).errors == [None]
        if opened_before:
            table.update(Keys(service=settings.service_name).meta(JOB), remove=("layout",))
        self.world.event("a")

    def clock(self) -> float:
        """Time goes on with each look at it."""
        self.time += 0.001
        return self.time

    def watch(self) -> None:
        """After each write: what was complete stays complete, and what was cancelled cancelled."""
        job = self.inside.records.get(JOB)
        if job is None:
            return
        if self.seen and self.seen[-1] in (JobState.COMPLETE, JobState.CANCELLED):
            assert job.state is self.seen[-1], f"a job that was {self.seen[-1]} is {job.state}"
        if job.state is JobState.FAILED and self.seen[-1:] != [JobState.FAILED]:
            done = self.inside.resumption.already_done([stage_ref(stage) for stage in job.failed]).refs
            lost = {stage for stage in job.failed if stage_ref(stage) not in done}
            assert all(map(self.world.has_letter, lost)), "failed, and there is no dead letter to redrive"
        self.seen.append(job.state)

    # ─── What can happen ───

    @precondition(lambda self: self.world.queue and len(self.workers) < 4)
    @rule(
        picks=st.lists(st.integers(0, 1_000), min_size=1, max_size=5),
        bad=st.lists(st.sampled_from([False, False, True]), min_size=5, max_size=5),
        check=st.booleans(),
        extra=st.integers(0, 2),
        moment=moments,
    )
    def deliver(self, picks: list[int], bad: list[bool], check: bool, extra: int, moment: Moment) -> None:
        """A worker receives some messages, maybe one twice, gets some way, and meets a fault."""
        messages = [self.world.queue[pick % len(self.world.queue)] for pick in picks]
        fates = [not each for each in bad[: len(messages)]]
        self._start(lambda: self.world.work(messages, fates, check, extra), moment)

    @precondition(lambda self: self.world.queue and len(self.workers) < 4)
    @rule(check=st.booleans(), moment=moments)
    def deliver_many(self, check: bool, moment: Moment) -> None:
        """A worker receives all there is, and nothing fails of itself."""
        messages = list(self.world.queue[:40])
        self._start(lambda: self.world.work(messages, [True] * len(messages), check, 0), moment)

    @precondition(lambda self: self.workers)
    @rule(which=st.integers(0, 3), moment=moments)
    def step(self, which: int, moment: Moment) -> None:
        """Some worker gets on, and meets a fault."""
        self.workers[which % len(self.workers)].advance(moment)
        self._reap()

    @precondition(lambda self: self.workers)
    @rule(which=st.integers(0, 3))
    def finish(self, which: int) -> None:
        """Some worker gets to its end."""
        self.workers[which % len(self.workers)].finish()
        self._reap()

    @precondition(lambda self: self.world.dead and len(self.workers) < 4)
    @rule(pick=st.integers(0, 1_000), moment=moments)
    def redrive(self, pick: int, moment: Moment) -> None:
        """A person redrives a dead letter."""
        message = self.world.dead[pick % len(self.world.dead)]
        self._start(lambda: self.world.redrive(message), moment)

    @precondition(lambda self: self.world.cancellable and (self.workers or not self.world.queue))
    @precondition(lambda self: len(self.workers) < 4)
    @rule(moment=moments)
    def cancel(self, moment: Moment) -> None:
        """A person cancels the job while others are at work, or when nothing is left to do."""
        self._start(self.world.cancel, moment)

    @precondition(lambda self: self.world.emitted)
    @rule(pick=st.integers(0, 1_000))
    def replay(self, pick: int) -> None:
        """The bridge reads an event again, long after."""
        emitted = sorted(self.world.emitted)
        self.world.emit(emitted[pick % len(emitted)])

    @precondition(lambda self: len(self.workers) < 4)
    @rule(pick=st.integers(0, 1_000), moment=moments)
    def reject(self, pick: int, moment: Moment) -> None:
        """The bridge reads an event again, and rejects it: it is rolled back, and knows no such stage."""
        going_on = (stage for stage in sorted(self.world.emitted) if not self.world.ends_path(stage))
        read = ["a", *(each for stage in going_on for each in self.world.stages[stage].followers)]
        self._start(lambda: self.world.reject(read[pick % len(read)]), moment)

    @invariant()
    def never_wrong(self) -> None:
        """The record is never ahead of the truth."""
        if hasattr(self, "world") and self.seen and self.seen[-1] is JobState.COMPLETE:
            assert self.world.is_complete(self.world.emitted)
            assert self.world.announced["complete"], "complete, and nobody was told"
        if hasattr(self, "world") and self.seen and self.seen[-1] is JobState.CANCELLED:
            assert not self.world.announced["complete"], "cancelled, and told to be complete"

    # ─── The end ───

    def teardown(self) -> None:
        """Let everything run out: the job must have ended as the truth says, and a redrive completes it."""
        if not hasattr(self, "world"):
            return
        try:
            while self.workers:
                self.workers[0].finish()
                self._reap()
            for message in list(self.world.begun):
                self.world.redrive(message)
            self._drain()
            if self.seen[-1] is JobState.CANCELLED:
                self.world.cancel()
            self._check_end()
            for _ in range(40):  # a stage after another, each twice
                if not self.world.dead:
                    break
                for message in list(self.world.dead):
                    self._redrive_alone(message)
                self._drain()
                self._check_end()
            assert not self.world.dead
            assert self.seen[-1] in (JobState.COMPLETE, JobState.CANCELLED)
        finally:
            for worker in self.workers:
                while not worker.finished:
                    worker.step("die")

    def _redrive_alone(self, message: Message) -> None:
        before = self.inside.records.get(JOB)
        sent = self.world.copies
        self.world.redrive(message)
        after = self.inside.records.get(JOB)
        assert before
        assert after
        # A copy's dead letter may have been redriven before, and have failed again since.
        letters = self.world.letters
        own = [at for ref, at in letters if ref == message.ref]
        first = letters[message.ref, message.generation] == 1 and message.generation == max(own)
        if first and before.state is JobState.FAILED and self.world.copies > sent:
            assert after.state is JobState.RUNNING
            assert after.redrives == before.redrives + 1, "its next failure would be taken for the last one"

    def _drain(self) -> None:
        for _ in range(200):
            if not self.world.queue:
                return
            messages = self.world.queue[:7]
            self.world.work(messages, [True] * len(messages), True, 0)
        raise AssertionError(f"the queue does not run empty: {self.world.queue}")

    def _check_end(self) -> None:
        answer = self.inside.listing.progress(JOB)
        assert answer is not None
        job, progress = answer
        recorded = self.world.recorded
        if job.state is not JobState.CANCELLED:
            if self.world.is_complete({ref.stage for ref in recorded if isinstance(ref, StageRef)}):
                assert job.state is JobState.COMPLETE, "never closed"
            if not self.world.is_complete(self.world.emitted):
                assert job.state is JobState.FAILED, "hangs silently"
        outcome = job.redrives if job.state is JobState.FAILED else job.state.value
        assert self.world.announced[outcome], "ended, and nobody was told"
        self.never_wrong()
        for stage in progress:
            split = split_ref(stage.stage)
            if split.split_id in self.world.totals:
                assert stage.total == self.world.totals[split.split_id]
                certain = sum(isinstance(ref, PartRef) and ref.split == split for ref in recorded)
                possible = len(self.world.stored.get(split.split_id, ()))
                assert certain <= stage.done <= possible, "miscounted"
            if job.state is JobState.CANCELLED:
                assert stage.done + stage.failed + stage.cancelled == stage.total, "not all are counted"

    def _start(self, procedure: Callable[[], None], moment: Moment) -> None:
        # Every other one: which of them does what is chosen by what they do.
        self.started += 1
        worker = Worker(procedure, earlier=self.mixed and self.started % 2 == 0)
        self.workers.append(worker)
        worker.advance(moment)
        self._reap()

    def _reap(self) -> None:
        self.workers = [worker for worker in self.workers if not worker.finished]


def small_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make nodes of three and pages of two, so that a few parts make a tree of three levels."""
    for module in ("counter", "keys", "listing", "taskrecords", "resumption", "splits"):
        monkeypatch.setattr(f"pipeline.jobs.{module}.FAN_OUT", 3)
    monkeypatch.setattr("pipeline.jobs.splits.PAGE_PARTS", 2)
    monkeypatch.setattr("pipeline.jobs.splits.INLINE_BYTES", 40)
