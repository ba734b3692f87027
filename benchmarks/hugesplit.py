"""The huge split benchmark: one job of millions of parts in this process, on services in memory.

The engine's own code announces, sends, records and gathers. The services are fakes that hold bits for what
they store (``benchmarks/hugetable.py``), and their clock jumps. So this process's memory is the engine's.
"""

import contextlib
import logging
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import click
import psutil
import structlog

from benchmarks.fill import first_event
from benchmarks.hugetable import HugeTable
from benchmarks.measure import BenchmarkError
from benchmarks.stages import square
from pipeline.author.registry import REGISTRY
from pipeline.jobs import JobState, JobStore, NewJob, split_ref
from pipeline.jobs.table import Table
from pipeline.kafka import OutgoingRecord
from pipeline.ledger import Dispatch, Ledger
from pipeline.patience import Patience, raise_first
from pipeline.settings import load_settings
from pipeline.sqs import OutgoingMessage, ReceivedMessage, SqsQueue
from pipeline.transport.lease import Lease
from pipeline.wire import taskmessage
from pipeline.wire.taskmessage import TaskHeader, TaskMessage, data_of, sealed_header
from pipeline.worker.child.outcome import Succeeded
from pipeline.worker.settle.arrivals import BATCH
from pipeline.worker.settle.completion import Completion, Recorder
from pipeline.worker.settle.emit import Emitter
from pipeline.worker.settle.plans import Plans
from pipeline.worker.settle.work import Work
from tests.fakes.limits import Clock
from tests.fakes.sqs import FakeSqs, QueueLimits

#: Samples of memory in each of the three phases: making parts, running them, gathering their results.
SAMPLES = 50
#: Memory is level if it grows by less than this from a tenth of a phase to its end.
LEVEL_MB = 8.0
#: Seconds between two lines about progress.
SAY_EVERY = 30.0
#: Seconds by which the clock jumps for each batch.
JUMP = 10.0

_ENVIRONMENT = {
    "SERVICE_NAME": "huge",
    "KAFKA_BOOTSTRAP_SERVERS": "nowhere:1",
    "KAFKA_CONSUMER_GROUP": "huge",
    "SQS_TASK_QUEUE_URL": "http://nowhere/1/tasks.fifo",
    "SQS_DLQ_URL": "http://nowhere/1/dlq.fifo",
}


def run(parts: int) -> list[dict[str, Any]]:
    """Return a row for each phase of one job of ``parts`` parts; raise unless each part counted once."""
    with quiet():
        job = HugeJob(parts)
        began = time.monotonic()
        job.run()
        return job.rows(time.monotonic() - began)


class HugeJob:
    """One job, with the services and the worker that run it."""

    def __init__(self, parts: int) -> None:
        self._parts = parts
        clock = Clock()
        # Without the quota of a group: the fake would remember each, and each part has its own.
        self.queue = FakeSqs(QueueLimits(requests=70_000), clock)
        self.table = HugeTable(parts, lambda ordinal: str(ordinal * ordinal))
        self.topics = Topics()
        self.settings = settings = load_settings(_ENVIRONMENT | {"MAX_PARTS": str(parts)})
        client: Any = self.table
        self.store = JobStore(settings, table=Table("jobs", lambda: client), clock=lambda: 1e6)
        producer: Any = self.topics
        sqs: Any = self.queue
        self._tasks = SqsQueue(sqs, settings.sqs_task_queue_url)
        patience = Patience()
        dispatch = Dispatch(settings, REGISTRY, lambda _: self._tasks, patience)
        self._ledger = Ledger(settings, self.store, producer, patience, dispatch)
        plans = Plans(REGISTRY, self._ledger)
        self._completion = Completion(
            Emitter(settings, REGISTRY, plans, self.store, self._ledger, dispatch, patience),
            Recorder(plans, self._ledger, "benchmark"),
            self._ledger,
        )
        #: By phase.
        self.memory = {name: Memory(name, parts) for name in ("making", "running", "gathering")}
        #: The most parts that the engine held: made and not in a page, read and not gathered.
        self.most_unwritten = self.most_unread = 0

    def run(self) -> None:
        """Open the job, and run its tasks until none is left; raise unless all is as it must be."""
        task, job_id = self.begin()
        raise_first(self._tasks.send([OutgoingMessage(**task.to_sqs())]))
        done = 0
        while works := [self._work(lease) for lease in self._receive()]:
            refused: list[Work] = []
            completed = self._completion.complete(works, refused)
            if refused:
                raise BenchmarkError(f"{len(refused)} tasks were refused: {refused[0].outcome}")
            raise_first(self._tasks.delete([work.lease.message.receipt_handle for work in completed]))
            done += sum(work.role == "part" for work in completed)
            self.memory["running"].note(done)
            self.queue.clock.jump(JUMP)
        job = self.store.records.get(job_id)
        if job is None or job.state is not JobState.COMPLETE or done != self._parts:
            raise BenchmarkError(f"{done:,} of {self._parts:,} parts ran, and the job is {job}")
        expected = str(sum(number * number for number in range(self._parts))).encode()
        if self.topics.of(square.emits) != [expected]:
            raise BenchmarkError(f"gathered: {self.topics.of(square.emits)}, not {[expected]}")

    def rows(self, seconds: float) -> list[dict[str, Any]]:
        """Return what was measured."""
        held = {
            "making": self.most_unwritten,
            "running": self.queue.most,
            "gathering": self.most_unread,
        }
        return [
            {
                "benchmark": "hugesplit",
                "phase": name,
                "parts": self._parts,
                "seconds": round(seconds, 1),
                "most_held": held[name],
                **memory.figures(),
            }
            for name, memory in self.memory.items()
        ]

    def begin(self) -> tuple[TaskMessage, str]:
        """Open the job; return the task of its split, and its id."""
        event = first_event(square.consumes, str(self._parts).encode())
        assert event.job_id is not None
        assert event.submitted_at is not None
        plan = REGISTRY.plan(square.consumes)
        job = NewJob(
            job_id=event.job_id,
            entity_id=event.entity_id,
            topic=square.consumes,
            plan=plan,
            submitted_at=event.submitted_at,
        )
        raise_first(self._ledger.open([job]).errors)
        task = taskmessage.for_event(square, event, event.job_id, event.submitted_at, plan.id)
        return task, event.job_id

    def run_task(self, lease: Lease) -> Succeeded:
        """Run a task as a child does."""
        header = lease.header
        if header is None or lease.envelope is None:
            raise BenchmarkError(f"no task: {lease.problem}")
        result = _ROLES[header.role](self, header, data_of(lease.envelope.body))
        return Succeeded(result=result, summary="", seconds=0.0)

    def _receive(self) -> list[Lease]:
        """Receive as many tasks as are settled together."""
        received: list[ReceivedMessage] = []
        while len(received) < BATCH:
            answer = self._tasks.receive(wait_seconds=0, visibility_seconds=300)
            if not answer:
                break
            received += answer
        return [Lease.of(message, "tasks.fifo", float("inf")) for message in received]

    def _work(self, lease: Lease) -> Work:
        return Work(lease=lease, outcome=self.run_task(lease))

    def _split(self, header: TaskHeader, data: str) -> None:
        ref = split_ref(header)
        layout = self.store.splits.unsealed(ref) if header.page is None else None
        if layout is not None:
            made = self._made(square.run_split(data))
            self.store.splits.seal(ref, sealed_header(header, {}), data, made, layout=layout)

    def _part(self, header: TaskHeader, data: str) -> str:
        return square.run_part(data)

    def _gather(self, header: TaskHeader, data: str) -> str | None:
        results = self.store.splits.results(split_ref(header), self._parts)
        return square.run_gather(data, self._gathered(results))

    def _made(self, parts: Iterable[str]) -> Iterator[str]:
        for count, part in enumerate(parts, start=1):
            self.memory["making"].note(count)
            self.most_unwritten = max(self.most_unwritten, count - self.table.split.written)
            yield part

    def _gathered(self, results: Iterable[str]) -> Iterator[str]:
        for count, result in enumerate(results, start=1):
            self.memory["gathering"].note(count)
            self.most_unread = max(self.most_unread, self.table.split.read - count)
            yield result


_ROLES = {"split": HugeJob._split, "part": HugeJob._part, "gather": HugeJob._gather}


class Topics:
    """Kafka: keeps the values of records by topic."""

    def __init__(self) -> None:
        self._values: defaultdict[str | None, list[bytes | None]] = defaultdict(list)

    def emit(self, records: Sequence[OutgoingRecord], _timeout: float) -> list[None]:
        """Acknowledge records."""
        for record in records:
            self._values[record.topic].append(record.value)
        return [None] * len(records)

    def of(self, topic: str | None) -> list[bytes | None]:
        """Return the values in a topic."""
        return self._values[topic]


class Memory:
    """The resident memory of this process in one phase."""

    def __init__(self, phase: str, parts: int) -> None:
        self._phase, self._parts = phase, parts
        self._every = max(1, parts // SAMPLES)
        self._next = self._every
        self._process = psutil.Process()
        self._said_at = time.monotonic()
        self._samples: list[float] = []

    def note(self, parts: int) -> None:
        """Take a sample if so many parts are done that one is due."""
        if parts < self._next:
            return
        self._next += self._every
        self._samples.append(self._process.memory_info().rss / 2**20)
        if time.monotonic() - self._said_at > SAY_EVERY:
            self._said_at = time.monotonic()
            click.echo(
                f"{self._phase}: {parts:,} of {self._parts:,} parts, {self._samples[-1]:.1f} MB", err=True
            )

    def figures(self) -> dict[str, Any]:
        """Return the memory in MB after a tenth of the parts, at most after it, and whether it is level."""
        tenth = self._samples[len(self._samples) // 10]
        most = max(self._samples[len(self._samples) // 10 :])
        return {
            "memory_mb_after_a_tenth": round(tenth, 1),
            "memory_mb_half_way": round(self._samples[len(self._samples) // 2], 1),
            "memory_mb_at_the_end": round(self._samples[-1], 1),
            "most_memory_mb": round(most, 1),
            "level": "yes" if most - tenth < LEVEL_MB else "no",
        }


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Log nothing below a warning for the block: a line a part would be measured instead."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    try:
        yield
    finally:
        structlog.configure(**before)
