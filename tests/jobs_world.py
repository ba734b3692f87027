"""A world that runs jobs on a JobStore and fails at every step that can fail; the state machine drives it.

Workers are threads that stop before each request and each step outside, so that Hypothesis chooses how they
interleave, which request is refused, whose reply is lost, and who dies before or after one. The world knows
the truth (which events were emitted, which parts ended), and holds the store to it.
"""

import contextlib
import threading
from collections import Counter as Multiset
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from botocore.exceptions import EndpointConnectionError, ReadTimeoutError

from pipeline.errors import PermanentError, ServiceError
from pipeline.jobs import (
    Closing,
    FailedTask,
    Filled,
    JobFailed,
    JobFilled,
    JobPlan,
    JobState,
    JobStore,
    PartDone,
    PartRef,
    PartResult,
    Ref,
    SplitFilled,
    SplitRef,
    StageDone,
    StageRef,
    TaskOverError,
    is_small,
)
from pipeline.jobs.table import Table

JOB = "job"

#: refuse: not done, an error; lose: done, an error; die and die_after: the process is gone.
Fault = Literal["none", "refuse", "lose", "die", "die_after"]
FAULTS: tuple[Fault, ...] = ("none", "none", "none", "refuse", "lose", "die", "die_after")

#: Kinds of steps: the writes whose order matters, what is done at other services ("outside"), or any.
KINDS = ("update_item", "put_item", "batch_execute_statement", "batch_write_item", "outside", "any", "any")


@dataclass(frozen=True)
class Moment:
    """Let a worker get on until it is about to take its ``skip``-th step of a kind; then the fault."""

    kind: str
    skip: int
    fault: Fault


class Death(BaseException):
    """The process of a worker ended here."""


@dataclass(frozen=True)
class Message:
    """A task message. A copy made by a replay has another number."""

    ref: Ref
    generation: int
    number: int


@dataclass(frozen=True, kw_only=True)
class StageModel:
    """A stage of the job's world."""

    followers: tuple[str, ...] = ()
    #: None: not split.
    parts: int | None = None
    #: The function returns None: nothing follows.
    returns_none: bool = False


class Worker:
    """A thread that runs one procedure and stops before every step."""

    def __init__(self, procedure: Callable[[], object], *, earlier: bool = False) -> None:
        """``earlier``: it runs the version before this one."""
        self.earlier = earlier
        self.finished = False
        self.error: BaseException | None = None
        #: The kind of step it is about to take.
        self.next = "any"
        self._procedure = procedure
        self._turn, self._stopped = threading.Semaphore(0), threading.Semaphore(0)
        self._fault: Fault = "none"
        self._thread = threading.Thread(target=self._run, daemon=True)
        _workers[self._thread] = self
        self._thread.start()
        self._stopped.acquire()

    def step(self, fault: Fault = "none") -> None:
        """Let it take its next step, and wait until it stops before another."""
        self._fault = fault
        self._turn.release()
        self._stopped.acquire()
        if self.error is not None:
            raise self.error

    def advance(self, moment: Moment) -> None:
        """Let it get on until the moment, which may never come."""
        self._reach(moment.kind)
        for _ in range(moment.skip):
            if not self.finished:
                self.step()
                self._reach(moment.kind)
        if not self.finished and moment.fault != "none":
            self.step(moment.fault)

    def _reach(self, kind: str) -> None:
        while not self.finished and kind not in (self.next, "any"):
            self.step()

    def finish(self) -> None:
        """Let it get to its end."""
        while not self.finished:
            self.step()

    def take(self, kind: str, call: Callable[[], Any], refused: Callable[[], Exception] | None) -> Any:
        """In its thread: one step, with the fault chosen for it. ``refused`` None: the step cannot fail."""
        self.next = kind
        self._stopped.release()
        self._turn.acquire()
        fault = self._fault
        if fault == "die":
            raise Death
        if fault == "refuse" and refused is not None:
            raise refused()
        answer = call()
        if fault == "die_after":
            raise Death
        if fault == "lose" and refused is not None:
            raise ReadTimeoutError(endpoint_url="here")
        return answer

    def _run(self) -> None:
        try:
            self._procedure()
        except Death:
            pass
        except BaseException as error:  # noqa: BLE001 - handed to the test
            self.error = error
        finally:
            self.finished = True
            del _workers[threading.current_thread()]
            self._stopped.release()


_workers: dict[threading.Thread, Worker] = {}


def take_step(
    call: Callable[[], Any], kind: str = "outside", refused: Callable[[], Exception] | None = None
) -> Any:
    """Take a step of the current worker; outside of workers just do it."""
    worker = _workers.get(threading.current_thread())
    return worker.take(kind, call, refused) if worker else call()


#: Requests that change nothing, after which all is as it was before.
READS = ("get_item", "batch_get_item", "query")


class Wire:
    """A DynamoDB client that stops before each request, and is watched after each write."""

    def __init__(self, client: Any, watch: Callable[[], None]) -> None:
        self._client = client
        self._watch = watch

    def __getattr__(self, operation: str) -> Any:
        method = getattr(self._client, operation)

        def request(**fields: Any) -> Any:
            def call() -> Any:
                try:
                    return method(**fields)
                finally:
                    if operation not in READS:
                        self._watch()

            return take_step(call, operation, lambda: EndpointConnectionError(endpoint_url="here"))

        return request


class SequentialTable(Table):
    """The table without threads of its own: the worker's thread is the one that is stopped."""

    def each(self, call: Any, arguments: Any) -> list[Any]:
        """One after another."""
        return [
            answer for argument in arguments for answer in super(SequentialTable, self).each(call, [argument])
        ]

    def ahead(self, call: Any, arguments: Any) -> Any:
        """None of them before the one before is used."""
        return map(call, arguments)


@dataclass(kw_only=True)
class World:
    """The true state, and the services beside DynamoDB."""

    stages: dict[str, StageModel]
    own_store: JobStore
    #: The same table as the version before this one uses it.
    earlier_store: JobStore
    #: The same table without a stop before each request, to look at the truth.
    inside: JobStore
    queue: list[Message] = field(default_factory=list)
    dead: list[Message] = field(default_factory=list)
    #: How many copies of a task became dead letters in a generation.
    letters: Multiset[tuple[Ref, int]] = field(default_factory=Multiset)
    #: Stages whose event is acknowledged.
    emitted: set[str] = field(default_factory=set)
    #: Tasks certainly recorded as done. A run that got no further than its event (or result) may be followed
    #: by one that fails, so then either end is right.
    recorded: set[Ref] = field(default_factory=set)
    #: Parts whose result was stored, by split.
    stored: dict[str, set[int]] = field(default_factory=dict)
    totals: dict[str, int] = field(default_factory=dict)
    #: Splits whose parts are told to keep small results in their counter.
    keeps: dict[str, bool] = field(default_factory=dict)
    #: What a gather read, by split: each gather after it reads the same.
    gathered: dict[str, list[str]] = field(default_factory=dict)
    #: Emitted job events: "complete", "cancelled", or the redrives of a failure.
    announced: Multiset[str | int] = field(default_factory=Multiset)
    gathers: Multiset[str] = field(default_factory=Multiset)
    #: Set once ``close`` was answered: later calls must not give the closing again.
    closed: set[str] = field(default_factory=set)
    copies: int = 0
    #: Stages of which a dead letter was removed because its task was done after all.
    forgiven: set[str] = field(default_factory=set)
    #: Stages ("b", "b.split") and ordinals that fail until they were redriven ``doom`` times.
    doomed: frozenset[str | int] = frozenset()
    doom: int = 0

    #: Whether the job may be cancelled: then each worker looks whether it was.
    cancellable: bool = False

    #: Dead letters whose redrive began and did not end: a person does it again.
    begun: list[Message] = field(default_factory=list)

    @property
    def store(self) -> JobStore:
        """The store of the version that the current worker runs."""
        return self.earlier_store if self.is_earlier else self.own_store

    @property
    def is_earlier(self) -> bool:
        """Whether the current worker runs the version before this one."""
        worker = _workers.get(threading.current_thread())
        return worker is not None and worker.earlier

    # ─── The truth ───

    @property
    def plan(self) -> JobPlan:
        """The terminal stages below each stage."""

        def below(stage: str) -> set[str]:
            followers = self.stages[stage].followers
            return {stage} if not followers else {each for f in followers for each in below(f)}

        return JobPlan(stages={stage: tuple(sorted(below(stage))) for stage in self.stages})

    def is_complete(self, stages: set[str]) -> bool:
        """Whether every terminal stage ended, or cannot be reached because a path ended early."""
        ended = {stage for stage in stages if self.ends_path(stage)}
        return self.plan.terminals <= self.plan.below(ended)

    def has_letter(self, stage: str) -> bool:
        """Whether a task of the stage is a dead letter, or a copy of a split that went well was one."""
        return stage in self.forgiven or any(message.ref.stage == stage for message in self.dead)

    def ends_path(self, stage: str) -> bool:
        """Whether nothing follows a stage."""
        return self.stages[stage].returns_none or not self.stages[stage].followers

    def is_doomed(self, message: Message) -> bool:
        """Whether this run fails, whoever makes it."""
        match message.ref:
            case PartRef():
                what: str | int = message.ref.ordinal
            case SplitRef():
                what = f"{message.ref.stage}.split"
            case StageRef():
                what = message.ref.stage
        return message.generation < self.doom and what in self.doomed

    # ─── The other services ───

    def send(self, ref: Ref, generation: int = 0) -> None:
        """Put a message on the queue."""
        self.copies += 1
        self.queue.append(Message(ref, generation, self.copies))

    def event(self, stage: str, generation: int = 0) -> None:
        """The bridge makes the task of a stage."""
        is_split = self.stages[stage].parts is not None
        self.send(split_ref(stage) if is_split else stage_ref(stage), generation)

    def reject(self, stage: str) -> None:
        """The bridge makes a copy of a stage's event a dead letter: it could make no task of it."""
        self.copies += 1
        with contextlib.suppress(ServiceError):  # the copy before it is on its way all the same
            self.bury([Message(stage_ref(stage), 0, self.copies)])

    def emit(self, stage: str) -> None:
        """A stage's event is acknowledged, and the bridge makes what follows of it."""
        self.emitted.add(stage)
        if not self.ends_path(stage):
            for follower in self.stages[stage].followers:
                self.event(follower)

    def delete(self, message: Message) -> None:
        """Delete a message; a copy that is gone is no error."""
        if message in self.queue:
            self.queue.remove(message)

    def give_up(self, message: Message) -> None:
        """Put a message on the DLQ; its own id deduplicates it."""
        if message not in self.dead:
            self.dead.append(message)
            self.letters[message.ref, message.generation] += 1

    def remove_dead(self, message: Message) -> None:
        """Delete a message from the DLQ."""
        if message in self.dead:
            self.dead.remove(message)

    # ─── A worker ───

    def work(self, messages: list[Message], fates: list[bool], check: bool, extra: int) -> None:
        """Settle a batch as a worker does. ``fates``: which runs end well. ``extra``: parts made too many."""
        with contextlib.suppress(ServiceError):  # the messages stay where they are, and come again
            self._work(messages, fates, check, extra)

    def _work(self, messages: list[Message], fates: list[bool], check: bool, extra: int) -> None:
        if self.cancellable and JOB in self.store.cancelled_since(0):
            self.skip(messages)
            return
        pending = [
            (each, good and not self.is_doomed(each)) for each, good in zip(messages, fates, strict=True)
        ]
        if check or any(message.generation for message in messages):
            closed = set(self.closed)
            already = self.store.resumption.already_done([message.ref for message in messages])
            self.act(already.closings, closed)
            self.recorded |= already.refs
            for message, _ in pending:
                if message.ref in already.refs:
                    take_step(partial(self.delete, message))
            pending = [each for each in pending if each[0].ref not in already.refs]
        for message, good in pending:
            if good and isinstance(message.ref, SplitRef):
                self.split(message, message.ref, extra)
        self.settle([each for each, good in pending if good and not isinstance(each.ref, SplitRef)])
        self.bury([each for each, good in pending if not good])

    def skip(self, messages: list[Message]) -> None:
        """The job is cancelled: its tasks end without a run."""
        job = self.store.records.get(JOB)
        assert job
        assert job.state is JobState.CANCELLED, "skipped, and the job waits for it"
        for message in messages:
            take_step(partial(self.delete, message))

    def cancel(self) -> None:
        """A person cancels the job, and tells the others."""
        with contextlib.suppress(ServiceError):
            job = self.store.cancel(JOB)
            assert job
            if job.state is JobState.CANCELLED:
                take_step(partial(self.announced.update, ["cancelled"]))

    def split(self, message: Message, ref: SplitRef, extra: int) -> None:
        """Seal, then send."""
        layout = self.store.splits.unsealed(ref)
        if layout is not None:
            size = (self.stages[ref.stage].parts or 0) + extra
            parts_made = (f"[{ordinal},{extra}]" for ordinal in range(size))
            sealed = self.store.splits.seal(ref, "{}", "0", parts_made, layout=layout)
        else:
            found = self.store.splits.sealed(ref)
            assert found
            sealed = found
        assert self.totals.setdefault(ref.split_id, sealed.total) == sealed.total, "a seal changed"
        assert self.keeps.setdefault(ref.split_id, sealed.keeps) == sealed.keeps
        pieces = dict(self.store.splits.parts(sealed))
        parts = list(pieces)
        assert parts == list(range(sealed.total))
        assert len({str(piece).split(",")[1] for piece in pieces.values()}) <= 1, "two runs mixed"
        if sealed.total == 0:
            self.act([SplitFilled(split=ref, total=0)], set(self.closed) - {ref.split_id})
        for ordinal in parts:
            part = PartRef(
                job_id=JOB, stage=ref.stage, split_id=ref.split_id, ordinal=ordinal, total=sealed.total
            )
            take_step(partial(self.send, part))
        self.end(message)

    def settle(self, messages: list[Message]) -> None:
        """Emit or store, record, close, delete."""
        outcomes: list[StageDone | PartDone] = []
        settled: list[Message] = []
        for message in messages:
            if isinstance(message.ref, PartRef):
                outcomes.append(self.part_done(message, message.ref))
            elif isinstance(message.ref, StageRef):
                stage = message.ref.stage
                if self.stages[stage].parts is not None and not self.gather(stage):
                    self.bury([message])
                    continue
                take_step(partial(self.emit, stage))
                outcomes.append(_stage_done(message.ref, self.ends_path(stage)))
            settled.append(message)
        if outcomes:
            closed = set(self.closed)
            recorded = self.store.tasks.record(outcomes)
            self.act(recorded.closings, closed)
            for message, error in zip(settled, recorded.errors, strict=True):
                if error is None:
                    self.recorded.add(message.ref)
                    self.end(message)

    def part_done(self, message: Message, ref: PartRef) -> PartDone:
        """Store the result of a part, or return it to be stored with the record."""
        result = _result(ref, message.number)
        if self.keeps[ref.split_id] and not self.is_earlier and is_small(result):
            self.stored.setdefault(ref.split_id, set()).add(ref.ordinal)
            return PartDone(ref=ref, result=result)
        (error,) = self.store.splits.put_results([result])
        if error:
            raise error
        self.stored.setdefault(ref.split_id, set()).add(ref.ordinal)
        return PartDone(ref=ref)

    def gather(self, stage: str) -> bool:
        """Read the results of all parts; whether they are there.

        The version before does not find those in a counter: its gather is a dead letter.
        """
        ref = split_ref(stage)
        total = self.totals[ref.split_id]
        try:
            found = list(self.store.splits.results(ref, total))
        except PermanentError:
            assert self.is_earlier, "a result is gone"
            return False
        assert [each.split(".")[0] for each in found] == [f'"{ordinal}' for ordinal in range(total)]
        if not self.is_earlier:
            assert self.gathered.setdefault(ref.split_id, found) == found, "two gathers read two results"
        return True

    def bury(self, messages: list[Message]) -> None:
        """Dead letter, failed recorded, delete."""
        for message in messages:
            take_step(partial(self.give_up, message))
        if messages:
            closed = set(self.closed)
            recorded = self.store.tasks.fail([_failed(message) for message in messages])
            self.act(recorded.closings, closed)
            for message, error in zip(messages, recorded.errors, strict=True):
                if error is None:
                    self.end(message)

    def end(self, message: Message) -> None:
        """Delete the message; a redriven task's job is looked at again first."""
        if message.generation:
            closed = set(self.closed)
            self.act(self.store.records.recheck(JOB), closed)
        take_step(partial(self.delete, message))

    def act(self, closings: Iterable[Closing], closed_before: set[str]) -> None:
        """Do what is to be closed, and hold each closing to the truth."""
        for closing in closings:
            match closing:
                case SplitFilled():
                    split = closing.split
                    assert split.split_id not in closed_before, "a split was closed twice"
                    stored = self.stored.get(split.split_id, set())
                    assert len(stored) == closing.total == self.totals[split.split_id], "closed early"
                    there = list(self.inside.splits.results(split, closing.total))
                    assert len(there) == closing.total, "counted, and not stored"
                    take_step(partial(self._send_gather, split))
                    self._close(closing)
                    self.closed.add(split.split_id)
                case JobFilled():
                    assert JOB not in closed_before, "the job was closed twice"
                    assert self.is_complete(self.emitted), "the job was closed early"
                    take_step(partial(self.announced.update, ["complete"]))
                    self._close(closing)
                    self.closed.add(JOB)
                case JobFailed():
                    assert JOB not in closed_before, "a complete job was announced as failed"
                    assert closing.job.failed, "failed, but nothing did"
                    take_step(partial(self.announced.update, [closing.job.redrives]))

    def _close(self, closing: Filled) -> None:
        (error,) = self.store.close([closing])
        if error:
            raise error

    def _send_gather(self, split: SplitRef) -> None:
        self.gathers[split.stage] += 1
        self.send(StageRef(job_id=JOB, stage=split.stage, gather=True))

    # ─── A person ───

    def redrive(self, message: Message) -> None:
        """Put a dead letter back."""
        self.begun.append(message)
        (answer,) = self.store.resumption.redrive([(message.ref, message.generation)])
        if isinstance(answer, ServiceError) and not isinstance(answer, TaskOverError):
            return
        if answer is not None:
            self.forgiven.add(message.ref.stage)
        elif isinstance(message.ref, StageRef) and not message.ref.gather:
            take_step(partial(self.event, message.ref.stage, message.generation + 1))
        else:
            take_step(partial(self.send, message.ref, message.generation + 1))
        take_step(partial(self.remove_dead, message))
        self.begun = [each for each in self.begun if each != message]


def as_before(store: JobStore) -> JobStore:
    """Make a store work as before ADR 23: it knows the own records of stages and of results only."""
    read = store.resumption._read
    store.records.record_ends = lambda *_: None  # type: ignore[method-assign]
    store.resumption._read = lambda refs: {  # type: ignore[method-assign]
        key: item for key, item in read(refs).items() if key[1] != "META"
    }
    unsealed = store.splits.unsealed
    store.splits.unsealed = lambda split: None if unsealed(split) is None else 1  # type: ignore[method-assign]
    store._counter.kept = lambda *_: {}  # type: ignore[method-assign]
    return store


def stage_ref(stage: str) -> StageRef:
    return StageRef(job_id=JOB, stage=stage)


def split_ref(stage: str) -> SplitRef:
    return SplitRef(job_id=JOB, stage=stage, split_id=f"split-{stage}")


def _result(ref: PartRef, run: int) -> PartResult:
    """Each run of a part has another result, and every third is too large for a counter."""
    more = "x" * (3_000 if run % 3 == 0 else 0)
    return PartResult(ref=ref, result=f'"{ref.ordinal}.{run}{more}"', run_seconds=0.1, attempts=1)


def _stage_done(ref: StageRef, ends_path: bool) -> StageDone:
    return StageDone(
        ref=ref, task_id=ref.stage, ends_path=ends_path, run_seconds=0.1, finished_at=1.0, worker="w"
    )


def _failed(message: Message) -> FailedTask:
    return FailedTask(
        ref=message.ref,
        task_id="task",
        error="ValueError",
        message="no",
        attempts=3,
        failed_at=1.0,
        generation=message.generation,
    )
